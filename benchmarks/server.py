"""The app in a process of its own, started the way `modelopt` starts it, for as long as a block lasts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ROOT / "pages" / "server" / "serve.py"
START_S = 120  # generous: other programs may have the cores
END_S = 30  # after which it is killed


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(
    *arguments: str, launcher: Path = LAUNCHER, command: Sequence[str] = (), **environment: str
) -> Iterator[str]:
    """Run serve.py in an empty folder until the block ends; yields the address. RuntimeError if it doesn't start.

    command: another program than serve.py, up to the port.
    """
    port = free_port()
    command = [*(command or (sys.executable, str(launcher), "--port")), str(port), *arguments]
    # Where serve.py was copied elsewhere, the checkout's modelopt_core stands in for the installed one.
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with TemporaryDirectory() as elsewhere:
        log = Path(elsewhere) / "server.log"
        with log.open("w") as output:
            server = subprocess.Popen(command, cwd=elsewhere, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(f"{address}/_stcore/health", server, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(END_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(END_S)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    how = "ended" if server.poll() is not None else f"did not answer in {START_S} s"
    raise RuntimeError(f"the server {how}: {log.read_text('utf-8')}")
