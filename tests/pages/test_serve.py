"""The launcher: its settings (R8), answers to strangers, and that it works from any folder, laid out as installed."""

from __future__ import annotations

import json
import socket
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import served
from pages.draw import say
from tests.serving import lay_out
from tests.waiting import LIMIT_S, wait_until

PLOTLY = "/_stcore/bidi-components/modelopt.plotly/plotly.min.js"


@pytest.fixture(scope="module")
def launcher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(root, tmp_path_factory.mktemp("serve") / "modelopt_studio", root / "tests/apps/dial_app.py")


@pytest.fixture(scope="module")
def address(launcher: Path) -> Iterator[str]:
    with served("--no-browser", launcher=launcher) as url:
        yield url


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """(status, headers, body), for refusals too."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers, refusal.read()


def test_shipped_settings(root: Path) -> None:
    settings = tomllib.loads((root / ".streamlit/config.toml").read_text("utf-8"))
    server = settings["server"]
    assert server["address"] == "127.0.0.1"
    assert set(server["allowedHosts"]) == {"localhost", "127.0.0.1"}
    assert server["enableXsrfProtection"]
    assert server["enableCORS"]
    assert server["maxUploadSize"] == 50
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["browser"]["gatherUsageStats"] is False


def test_every_setting_is_one_that_streamlit_knows(root: Path) -> None:
    from streamlit import config

    settings = tomllib.loads((root / ".streamlit/config.toml").read_text("utf-8"))

    def names(table: dict[str, Any], above: str) -> Iterator[str]:
        for name, value in table.items():
            yield from names(value, f"{above}{name}.") if isinstance(value, dict) else (f"{above}{name}",)

    for name in names(settings, ""):
        assert config.is_manually_set(name) in (True, False)  # raises for an unknown name


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb. Source: WCAG 2.2, definition of relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read_on_every_surface(root: Path, mode: str) -> None:
    theme = tomllib.loads((root / ".streamlit/config.toml").read_text("utf-8"))["theme"][mode]
    for surface in (theme["backgroundColor"], theme["sidebar"]["backgroundColor"], theme["codeBackgroundColor"]):
        for ink in ("textColor", "grayTextColor"):
            light, dark = sorted((luminance(theme[ink]), luminance(surface)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} {theme[ink]} on {surface}"


def test_protective_headers_on_every_answer(address: str) -> None:
    for path in ("/", "/_stcore/health", "/_stcore/bidi-components/none/none.js"):
        _, headers, _ = ask(address + path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_a_browser_gets_one_secret_and_keeps_it(address: str) -> None:
    _, headers, _ = ask(address)
    [cookie] = [value for value in headers.get_all("Set-Cookie") if value.startswith("modelopt_owner=")]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    secret = cookie.split(";")[0]
    assert len(secret) == len("modelopt_owner=") + 64

    def set_again(sent: str) -> bool:
        return any("modelopt_owner" in value for value in ask(address, Cookie=sent)[1].get_all("Set-Cookie") or [])

    assert not set_again(f"theme=dark; {secret}; other=1")
    assert set_again("modelopt_owner=guess") and set_again(f"x{secret}")  # noqa: PT018
    assert not any("modelopt_owner" in v for v in ask(f"{address}/_stcore/health")[1].get_all("Set-Cookie") or [])


def test_strangers_are_refused(address: str) -> None:
    assert ask(address, Host="evil.example")[0] == 400
    assert ask(f"{address}/_stcore/health", Host="127.0.0.1.evil.example")[0] == 400
    assert ask(f"{address}/_stcore/upload_file/a/b", method="PUT")[0] == 403  # no XSRF token
    port = int(address.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), 5) as line:
        line.sendall(
            b"GET /_stcore/stream HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b" 101 " not in line.recv(200).splitlines()[0]


def test_other_addresses_of_this_machine_do_not_answer(address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(OSError):  # noqa: PT011  refused, or no such address: both will do
        socket.create_connection(("127.0.0.2", port), 2)


def test_plotly_is_one_file_that_the_browser_keeps(address: str) -> None:
    import plotly

    assert "rel=prefetch" in ask(address)[1]["Link"]
    link = ask(f"{address}/prune")[1]["Link"]
    assert "rel=preload" in link
    path, version = link[1:].split(">")[0].split("?v=")
    assert path == PLOTLY
    assert version == plotly.__version__
    status, headers, body = ask(f"{address}{PLOTLY}?v={version}", **{"Accept-Encoding": "gzip"})
    assert status == 200
    assert body == (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_bytes()
    assert "immutable" in headers["Cache-Control"]
    assert ask(f"{address}{PLOTLY.replace('plotly.min.js', '%2e%2e/__init__.py')}")[0] in (400, 404)


def test_a_page_with_a_curve_runs_plotly_while_python_starts(address: str) -> None:
    """The page as Streamlit has it, and one script more; Home has no curve and no such script."""
    browser = {"Accept": "text/html,*/*;q=0.8", "Accept-Encoding": "gzip, br"}
    home, page = (ask(f"{address}/{name}", **browser) for name in ("", "prune"))
    link = page[1]["Link"][1:].split(">")[0]
    added = page[2].removeprefix(home[2]).decode()
    assert page[2].startswith(home[2])
    assert added.startswith("<script>")
    assert f'src: "{link}"' in added
    assert int(page[1]["Content-Length"]) == len(page[2])
    assert ask(f"{address}/prune", method="HEAD", **browser)[2] == b""


def test_browser_is_opened_when_asked(launcher: Path) -> None:
    told = launcher.parent / "told"
    script = launcher.parent / "browser.sh"
    script.write_text(f'#!/bin/sh\nprintf %s "$1" > {told}\n', "utf-8")
    script.chmod(0o755)
    with served(launcher=launcher, BROWSER=f"{script} %s") as url:
        wait_until(lambda: told.exists() and told.read_text("utf-8") == url, "the browser to be opened")


@pytest.mark.browser
def test_viewers_see_no_traceback(address: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{address}/?mode=boom")
    page.locator("[data-testid=stException], [role=alert]").first.wait_for()
    text = page.locator("body").inner_text()
    page.close()
    assert "secret" not in text
    assert "Traceback" not in text
    assert "dial_app" not in text


HOSTILE = [
    "![x](http://evil.example/a.png)", "[click](http://evil.example)", "<img src=http://evil.example/b.png>",
    "`code`", "**bold** __bold__ *it* _it_ ~~gone~~ ==x==", "# heading", "- item", "+ item", "1. item", "1) item",
    "> quote", "---", "    indented", "| a | b |", "$x^2$ and $$y$$", "costs $5 or $6", "[^1] [^1]: note",
    "```py x```", "[!NOTE] > x", ":red[red] :red-background[x] :small[s] :red x", "a :b:c: d",
    ":material/home: :smile: :+1: :streamlit: :100:", "::note[x] :::note", "::: note",
    "digits/cnn:0.5,fc1:2 12:30:45 a:b:c", "<http://evil.example>", "<!-- x -->",
    "http://evil.example/ https://a.b/c www.evil.example me@evil.example", "&lt;b&gt; &copy;", "a\\*b\\\\",
    "[a]: http://evil.example", "unknown criterion 'l3' (did you mean 'l1'?); choose from bn_scale, n:m, l1",
    "{.a #b}", "![a][b]", "mailto:me@evil.example", "ftp://evil.example/x", "a <br> b", "* * *", "= =", "1.5 of 2",
    "-0.5", "~ a",
]  # fmt: skip
MARKUP = (
    ":is(a, img, strong, b, em, i, del, s, code, pre, h1, h2, h3, h4, h5, h6, li, hr, blockquote, table, sup, span)"
)


@pytest.mark.browser
def test_a_strangers_text_is_drawn_letter_by_letter(address: str, browser: Any) -> None:
    """Streamlit's own renderer says whether the escapes hold: the words as they are, and nothing but words."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/?mode=text&texts={urllib.parse.quote(json.dumps(HOSTILE))}")
    drawn = page.locator("[data-testid=stCaptionContainer]")
    wait_until(lambda: drawn.count() == len(HOSTILE), "every text to be drawn")
    shown = [text.replace(say.NOTHING, "").strip() for text in drawn.all_inner_texts()]
    assert shown == [" ".join(text.split()) for text in HOSTILE]
    assert drawn.locator(MARKUP).evaluate_all("all => all.map(e => e.outerHTML)") == []
    chosen = page.locator("[data-testid=stMultiSelect]").inner_text()  # options are not Markdown, and go as they are
    assert [text for text in map(str.strip, HOSTILE) if text not in chosen] == []
    assert page.locator("[data-testid=stMultiSelect] :is(a, img, strong, em, code, h1, li)").count() == 0
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    page.close()


@pytest.mark.browser
def test_a_plain_streamlit_run_is_the_launchers_app(root: Path, browser: Any) -> None:
    """The same headers and Host check; and the first link on a fresh server is the whole app."""
    command = (sys.executable, "-m", "streamlit", "run", str(root / "app.py"), "--server.port")
    with served(command=command) as url:
        _, headers, _ = ask(url)
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert ask(url, Host="evil.example")[0] == 400
        page = browser.new_page()
        page.goto(f"{url}/prune?ratio=0.4&criterion=![x](http://evil.example/a.png)")
        page.locator(".mo-score strong").wait_for()
        assert page.locator("[data-testid=stException], [data-testid=stAlert]").count() == 0
        page.get_by_text("unknown criterion '![x](http:").wait_for()
        assert page.locator("[data-testid=stToast] img").count() == 0
        page.close()


@pytest.mark.browser
def test_a_link_to_a_page_runs_the_whole_app_on_a_fresh_server(root: Path, tmp_path: Path, browser: Any) -> None:
    """Without help, Streamlit would run pages/two.py alone until somebody has opened the start page."""
    app = tmp_path / "routes.py"
    app.write_text(
        "import streamlit as st\n"
        "st.session_state.set_by = 'app.py'\n"
        "st.navigation([st.Page('pages/one.py'), st.Page('pages/two.py')]).run()\n",
        "utf-8",
    )
    launcher = lay_out(root, tmp_path / "studio", app)
    for name in ("one", "two"):
        text = f"import streamlit as st\nst.text('{name} after ' + st.session_state.get('set_by', 'nothing'))\n"
        (tmp_path / "studio" / "pages" / f"{name}.py").write_text(text, "utf-8")
    with served("--no-browser", launcher=launcher) as url:
        page = browser.new_page()
        page.goto(f"{url}/two")
        page.get_by_text("two after app.py").wait_for()
        page.close()
