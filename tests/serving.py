"""The app as it lies when it is installed, started the way `modelopt` starts it, for tests that need a server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60  # generous: other tests share the cores


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lay_out(root: Path, folder: Path, app: Path) -> Path:
    """`folder` as the wheel's modelopt_studio: pages, assets, settings, and `app` as app.py. Returns serve.py."""
    for name in ("pages", ".streamlit"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(app, folder / "app.py")
    return folder / "pages" / "shared" / "serve.py"


@contextmanager
def served(launcher: Path, root: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Run serve.py from an unrelated folder until the block ends; yields the address."""
    port = free_port()
    command = [sys.executable, str(launcher), "--port", str(port), *arguments]
    elsewhere = launcher.parents[2].parent
    # modelopt_core stands in for the installed package; pages and app.py must come from beside serve.py.
    env = {**os.environ, "PYTHONPATH": str(root), **environment}
    log = elsewhere / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=elsewhere, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(f"{address}/_stcore/health", server, log)
        yield address
    finally:
        server.terminate()
        server.wait(10)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text('utf-8')}")
