"""Start the app on this machine only: `python pages/shared/serve.py [--port N] [--no-browser]`, from any folder.

`.streamlit/config.toml` beside app.py holds every setting that Streamlit has; here is what it lacks: a Host check and
security headers on each response, and torch imported beside the server's start instead of after it. A plain
`streamlit run app.py` gets them too: app.py hands out an application with the same settings.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib
import os
import re
import secrets
import sys
import threading
import tomllib
import webbrowser
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]  # holds app.py, in a checkout and in the wheel's modelopt_studio
WARM = ("modelopt_core.api",)  # and nothing that a page does not need: two cores are starting a browser as well
DRAWS = "pandas"  # Streamlit asks it about whatever a component is given, the first Dial too
YEAR = "public, max-age=31536000, immutable"
OWNER = "modelopt_owner"  # no script reads it, no other site sends it, and no URL holds it
TOKEN = re.compile(rf"(?:^|; ?){OWNER}=[0-9a-f]{{64}}(?:;|$)".encode())
COOKIE = "Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"
# Running plotly.min.js takes half a second: free once the page is asked for and Python draws it, dear before that and
# when the curve waits.
EARLY = """new MutationObserver((_, observer) => {
  if (!document.querySelector("[data-test-connection-state=CONNECTED]")) return;
  observer.disconnect();
  const script = Object.assign(document.createElement("script"), { id: "plotly", src: "/PLOTLY" });
  script.onerror = () => script.remove();
  document.head.append(script);
}).observe(document, { subtree: true, childList: true, attributes: true });"""

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from streamlit.starlette import App


def early_script() -> str:
    """EARLY with plotly.min.js's address: the page has it and the policy its hash."""
    from pages.shared.dial import plotly_url

    return EARLY.replace("PLOTLY", plotly_url())


def content_security_policy() -> str:
    """What a page may load: this server and nothing else.

    Streamlit writes styles into the page and runs components from blob: addresses; its own inline scripts and ours
    are allowed by their hashes.
    """
    import streamlit

    index = (Path(streamlit.__file__).parent / "static" / "index.html").read_text("utf-8")
    inline = [*re.findall(r"<script>(.*?)</script>", index, re.DOTALL), early_script()]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in inline]
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "blob:", *hashes]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "media-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "connect-src": "'self' data: blob: ws://127.0.0.1:* ws://localhost:*",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())


class Headers:
    """ASGI middleware: protective headers on every HTTP response; plotly.min.js fetched early, kept, and run early.

    With its first page a browser gets a secret, by which its jobs find it again (see pages/shared/owner.py).
    """

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self.app = app
        self.headers = {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "permissions-policy": "camera=(), geolocation=(), microphone=()",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from pages.shared.dial import plotly_url

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        versioned = scope["path"].endswith("/plotly.min.js") and b"v=" in scope["query_string"]
        opens = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
        if versioned or opens:  # 4.8 MB, not compressed anew for every visitor; and the page, which gets a line more
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]}

        early = b""

        async def send_with_headers(message: Message) -> None:
            nonlocal early
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                message["body"] = message.get("body", b"") + early
            if message["type"] == "http.response.start":
                extra = dict(self.headers)
                if versioned and message["status"] == 200:
                    extra["cache-control"] = YEAR
                page = (b"content-type", b"text/html; charset=utf-8") in message["headers"]
                if page:
                    curve = scope["path"] != "/"  # Home has none, but is a click away
                    extra["link"] = f"</{plotly_url()}>; rel={'preload' if curve else 'prefetch'}; as=script"
                    sent = dict(message["headers"])
                    if curve and b"content-encoding" not in sent and b"content-length" in sent:
                        early = f"<script>{early_script()}</script>".encode()
                        extra["content-length"] = str(int(sent[b"content-length"]) + len(early))
                message["headers"] = _merged(message, extra)
                if page and not _owned(scope):
                    message["headers"].append((b"set-cookie", f"{OWNER}={secrets.token_hex(32)}; {COOKIE}".encode()))
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _merged(message: MutableMapping[str, Any], extra: dict[str, str]) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in message.get("headers", []) if name.decode().lower() not in extra]
    return kept + [(name.encode(), value.encode()) for name, value in extra.items()]


def _owned(scope: Scope) -> bool:
    """Does the request bring a secret of ours?"""
    return any(name == b"cookie" and TOKEN.search(value) for name, value in scope["headers"])


def settings(*, browser: bool = False) -> dict[str, Any]:
    """What makes Streamlit's ASGI application ours: app.py, behind the Host check and the headers."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from streamlit import config
    from streamlit.runtime.pages_manager import PagesManager

    from modelopt_core import memory, turns
    from pages.shared import rest

    memory.few_arenas()
    turns.share_cores(os.environ)

    @asynccontextmanager
    async def lifespan(_: App) -> AsyncIterator[None]:
        threading.Thread(target=warm, name="warm", daemon=True).start()
        rest.watch()
        if browser:  # the socket listens already; only now is the port known
            address = f"http://127.0.0.1:{config.get_option('server.port')}"
            threading.Thread(target=webbrowser.open, args=(address,), name="browser", daemon=True).start()
        yield

    # Streamlit itself checks the Host of WebSockets only.
    hosts = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))["server"]["allowedHosts"]
    middleware = [
        Middleware(Headers, policy=content_security_policy()),
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
    ]
    # Until st.navigation was called once, Streamlit takes a folder `pages` for the older kind of app: a link that is
    # opened before Home would run its page without app.py around it.
    PagesManager.uses_pages_directory = False
    return {"script_path": ROOT / "app.py", "lifespan": lifespan, "middleware": middleware}


def warm() -> None:
    """Import the slow libraries and measure the default model beside the server's start; the first page is waiting.

    Then take away what killed writers left in the folders that the app writes to.
    """
    for name in WARM:
        importlib.import_module(name)
    import modelopt_core as mo
    from modelopt_core import atomic, jobs
    from modelopt_core.workloads.mnist import RAW, data_folder

    workload = mo.workload("digits")
    with contextlib.suppress(mo.ModelOptError):  # damaged weights: the page says which, and what mends them
        mo.measure(mo.baseline(workload.name, workload.models[0]), workload)
    importlib.import_module(DRAWS)
    for folder in (data_folder() / RAW, *jobs.home().glob("*")):
        atomic.sweep(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="modelopt", description="Open ModelOpt Studio in the browser.")
    parser.add_argument("--port", type=int, help="port on 127.0.0.1; left out, 8501 or the next free one")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
    options = parser.parse_args(arguments)
    # Streamlit looks for .streamlit/config.toml, and for imports, beside the program that was started: name app.py.
    sys.argv = [str(ROOT / "app.py")]
    if not sys.flags.safe_path:  # else the first entry is not this file's folder, but where modelopt_core may be
        del sys.path[0]
    sys.path.insert(0, str(ROOT))
    from streamlit.starlette import App

    app = App(**settings(browser=not options.no_browser))
    app.run(config={} if options.port is None else {"server.port": options.port})


if __name__ == "__main__":
    main()
