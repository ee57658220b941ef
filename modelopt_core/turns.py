"""Who may use the cores now: a timing goes before everything, a person who waits goes before the background.

Two cores are shared by evaluation, training and stopwatches. A timing holds a machine-wide lock; work that runs in
batches calls `pause` between them and stands still while a timing runs, or, in the background, while a person waits.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

MACHINE_WAIT_S = 2.0  # another process may time for so long; after that we time anyway and the spread tells
LIMIT_S = 10.0  # nobody stands still for longer, whatever the others do
PROBE_EVERY_S = 0.02  # asking for the machine-wide lock costs 0.1 ms, a batch often less than 1 ms

_turn = threading.Condition()
_timing = threading.RLock()
_local = threading.local()
_state = {"timing": 0, "waiting": 0}
_machine = FileLock(Path(tempfile.gettempdir()) / "modelopt-timing.lock", thread_local=False)
_probe = FileLock(_machine.lock_file)
_probing = {"on": False, "next_s": 0.0}


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Let PyTorch's threads give their core away while they wait, instead of spinning. Before torch is first imported.

    On two cores with anything else at work, a hundred epochs of a small network took 1.8 s so, and 18.9 s spinning.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def stopwatch() -> Iterator[bool]:
    """Hold the cores while timing. Yields whether the machine-wide lock was got as well (else: expect noise)."""
    with _timing:
        alone = True
        try:
            _machine.acquire(timeout=MACHINE_WAIT_S, poll_interval=0.005)
        except (Timeout, OSError):
            alone = False
        _change("timing", +1)
        _local.timing = getattr(_local, "timing", 0) + 1
        try:
            yield alone
        finally:
            _local.timing -= 1
            _change("timing", -1)
            if alone:
                _machine.release()


@contextmanager
def waiting() -> Iterator[None]:
    """Somebody waits for the work inside: background work stands still meanwhile."""
    _change("waiting", +1)
    try:
        yield
    finally:
        _change("waiting", -1)


@contextmanager
def background() -> Iterator[None]:
    """The work of this thread inside the block can wait."""
    _local.background = True
    try:
        yield
    finally:
        _local.background = False


def heed_other_processes() -> None:
    """From now on `pause` in this process stands still for timings of other processes too. A job says so once.

    The app does not: its pages answer within milliseconds and its timings exclude each other anyway.
    """
    _probing["on"] = True


def pause(limit_s: float = LIMIT_S) -> None:
    """Called between batches: returns when it is this thread's turn (mostly at once; at the latest after `limit_s`)."""
    pauser(limit_s)()


def pauser(limit_s: float = LIMIT_S) -> Callable[[], None]:
    """`pause` for other threads that work on behalf of this one."""
    if getattr(_local, "timing", 0):
        return lambda: None
    behind = getattr(_local, "background", False)

    def pause() -> None:
        with _turn:
            _turn.wait_for(lambda: not _state["timing"] and not (behind and _state["waiting"]), timeout=limit_s)
        if _probing["on"] and time.monotonic() >= _probing["next_s"]:
            _wait_for_others(limit_s)

    return pause


def _wait_for_others(limit_s: float) -> None:
    """Return once no process holds the machine-wide lock; it is taken for an instant to know."""
    with suppress(Timeout, OSError), _probe.acquire(timeout=limit_s, poll_interval=0.005):
        pass
    _probing["next_s"] = time.monotonic() + PROBE_EVERY_S


def _change(what: str, by: int) -> None:
    with _turn:
        _state[what] += by
        _turn.notify_all()
