"""How tests wait: until something is so, but not for ever, and with a sentence on what never came.

The limits are for a machine whose cores others have taken; on an idle one nothing waits for as long.
"""

from __future__ import annotations

import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from modelopt_core.machine import cores

T = TypeVar("T")

LIMIT_S = 120.0
SOON_S = 20.0  # for what takes milliseconds where a core is free


def wait_until(true: Callable[[], T], what: str, limit_s: float = LIMIT_S, every_s: float = 0.01) -> T:
    """The first true value of `true()`. what: completes "waited 120 s for …"."""
    begun = time.monotonic()
    while not (found := true()):
        if time.monotonic() - begun > limit_s:
            pytest.fail(f"waited {limit_s:g} s for {what}")
        time.sleep(every_s)
    return found


def soon(true: Callable[[], T], what: str) -> T:
    """`wait_until`, for what takes milliseconds where a core is free."""
    return wait_until(true, what, SOON_S)


def join(threads: threading.Thread | list[threading.Thread], what: str, limit_s: float = SOON_S) -> None:
    """Every thread has ended. what: the work of theirs that is waited for."""
    end = time.monotonic() + limit_s
    for thread in [threads] if isinstance(threads, threading.Thread) else threads:
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            pytest.fail(f"waited {limit_s:g} s for {what}")


@contextmanager
def person() -> Iterator[None]:
    """A person is served inside: background work stands still."""
    with cores.asking():
        cores.line_up()
        yield


def first_line(process: subprocess.Popen[str], what: str, limit_s: float = LIMIT_S) -> str:
    """The next line that the process prints; its stdout is a pipe."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], limit_s)[0]:
        process.kill()
        pytest.fail(f"waited {limit_s:g} s for {what}")
    return process.stdout.readline()


def patient(browser: Any) -> Any:
    """The Playwright browser, whose pages wait as long as everything here; by itself it gives up after 30 s."""
    for name in ("new_page", "new_context"):
        setattr(browser, name, _patient(getattr(browser, name)))
    return browser


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any, **options: Any) -> Any:
        opened = make(*arguments, **options)
        opened.set_default_timeout(LIMIT_S * 1000)
        return opened

    return made
