"""Who may use the cores now: a timing goes before everything, a person who waits goes before the background.

Two cores are shared by evaluation, training and stopwatches. A timing holds a machine-wide lock; work that runs in
batches calls `pause` between them and stands still while a timing runs, or, in the background, while a person waits.
Whoever a person waits for is no background meanwhile. People stand in line: as many are served at once as there are
cores, in the order in which they came, so that nobody's answer takes thirty times as long because thirty asked.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

MACHINE_WAIT_S = 2.0  # another process may time for so long; after that we time anyway and the spread tells
LIMIT_S = 10.0  # nobody stands still for longer, whatever the others do
PROBE_EVERY_S = 0.02  # asking for the machine-wide lock costs 0.1 ms, a batch often less than 1 ms
SERVED = os.cpu_count() or 1  # people at once
PATIENCE_S = 60.0  # nobody stands in line for longer, whatever the others do
TELL_AFTER_S, TELL_EVERY_S = 1.0, 0.5  # who waits is told the place; a line for less would only flash


@dataclass(eq=False)
class Turn:
    """Whose work a thread does; one for each thread and block of `background`."""

    background: bool = False


@dataclass(eq=False)
class _Asked:
    """A person, while a thread works for them. absent: waits for what another makes, and needs no core."""

    tell: Callable[[int], None]
    served: bool = False
    absent: bool = False
    since_s: float = 0.0  # when the first wait began
    told: bool = False


_turn = threading.Condition()
_timing = threading.RLock()
_local = threading.local()
_state = {"timing": 0}
_line: list[_Asked] = []  # people who are served or wait for that, in the order in which they came
_waits: list[tuple[Turn, Turn, Callable[[], bool]]] = []  # who waits for a result, who makes it, is it there?
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
        _timings(+1)
        _local.timing = getattr(_local, "timing", 0) + 1
        try:
            yield alone
        finally:
            _local.timing -= 1
            _timings(-1)
            if alone:
                _machine.release()


@contextmanager
def asking(tell: Callable[[int], None] = lambda before: None) -> Iterator[None]:
    """A person asks for the work inside. What is at hand comes at once; to have it made, they stand in line.

    From then on to the end of the block the background stands still. tell: called in this thread, now and then, with
    the number of people who come before, where that lasts longer than a moment; 0: it is being made. It may raise.
    """
    if getattr(_local, "asked", None) or mine().background:  # who asked first stands in line for all inside
        yield
        return
    asked = _local.asked = _Asked(tell)
    try:
        yield
    finally:
        _local.asked = None
        with _turn:
            if asked in _line:
                _line.remove(asked)
            _turn.notify_all()


def served() -> bool:
    """May this thread begin what takes a while? Nobody but people has to stand in line."""
    asked: _Asked | None = getattr(_local, "asked", None)
    return asked is None or asked.served


def line_up(needless: Callable[[], bool] = lambda: False) -> None:
    """Stand in line until this thread is `served`, or `needless()`: somebody else makes the same."""
    asked: _Asked | None = getattr(_local, "asked", None)
    if asked is None:
        return

    def over() -> bool:
        patient = time.monotonic() - asked.since_s < PATIENCE_S
        asked.served = asked.served or _before(asked) < SERVED or not patient
        return asked.served or needless()

    with _turn:
        _enter(asked)
    _stand(asked, over)
    if asked.served and asked.told:
        asked.tell(0)


def wait_for(maker: Turn, done: Callable[[], bool]) -> None:
    """Wait until `done()`, which `maker` brings about; `news` says when to look.

    Meanwhile the maker is no background, unless this thread is, and others may be served in this thread's place.
    """
    asked: _Asked | None = getattr(_local, "asked", None)
    wait = (mine(), maker, done)
    with _turn:
        _waits.append(wait)
        if asked:
            _enter(asked)
            asked.absent = True
        _turn.notify_all()
    try:
        _stand(asked, done)
    finally:
        with _turn:
            _waits.remove(wait)
            if asked:
                asked.absent = False


def _enter(asked: _Asked) -> None:
    if asked not in _line:
        _line.append(asked)


def news() -> None:
    """Something is done that others may wait for."""
    with _turn:
        _turn.notify_all()


def _stand(asked: _Asked | None, over: Callable[[], bool]) -> None:
    """Wait until `over()`, and tell the person who waits."""
    if asked:
        asked.since_s = asked.since_s or time.monotonic()
    while True:
        with _turn:
            if _turn.wait_for(over, timeout=TELL_EVERY_S):
                return
            before = _before(asked) if asked and not asked.absent else 0
        if asked and time.monotonic() - asked.since_s >= TELL_AFTER_S:
            asked.told = True
            asked.tell(before)


def _before(asked: _Asked) -> int:
    """How many people are served, or will be, before this one."""
    return sum(not other.absent for other in _line[: _line.index(asked)])


def mine() -> Turn:
    """The turn of this thread, for others to `wait_for`."""
    if not hasattr(_local, "turn"):
        _local.turn = Turn()
    turn: Turn = _local.turn
    return turn


@contextmanager
def background() -> Iterator[None]:
    """The work of this thread inside the block can wait."""
    before = mine()
    _local.turn = Turn(background=True)
    try:
        yield
    finally:
        _local.turn = before


def _behind(turn: Turn) -> bool:
    """Is it background that nobody else waits for?"""
    return turn.background and all(_behind(who) or done() for who, maker, done in _waits if maker is turn)


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
    turn = mine()

    def pause() -> None:
        with _turn:
            _turn.wait_for(lambda: not _state["timing"] and not (_line and _behind(turn)), timeout=limit_s)
        if _probing["on"] and time.monotonic() >= _probing["next_s"]:
            _wait_for_others(limit_s)

    return pause


def _wait_for_others(limit_s: float) -> None:
    """Return once no process holds the machine-wide lock; it is taken for an instant to know."""
    with suppress(Timeout, OSError), _probe.acquire(timeout=limit_s, poll_interval=0.005):
        pass
    _probing["next_s"] = time.monotonic() + PROBE_EVERY_S


def _timings(by: int) -> None:
    with _turn:
        _state["timing"] += by
        _turn.notify_all()
