"""Response curves measured in the background, coarse to fine, while a person goes on.

One worker thread serves the whole process, the latest request first. It stands still while somebody waits for a
released slider and while a stopwatch runs. Points are appended to a list that pages poll; the worker draws nothing.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.machine.cache import Store

T = TypeVar("T")
KEPT = 16 * 2**20  # bytes of curves kept; one of 100 points takes some 200 kB
POINT = 2048  # bytes of a point of a curve: a measurement


@dataclass(frozen=True)
class Instead(Generic[T]):
    """What the work yields for a point that was measured better: it takes the place of number `at`."""

    at: int
    point: T


@dataclass(frozen=True)
class Later:
    """What the work yields to be asked again in so many seconds; other sweeps go on meanwhile."""

    seconds: float


class Sweep(Generic[T]):
    """A curve being measured. `points` never shrinks; `error` is one line if it broke; `done` when nothing more comes.

    wanted_until_s: on the monotonic clock; after that it rests. not_before_s: it does until then.
    """

    def __init__(self, total: int, work: Callable[[], Iterator[T | Instead[T] | Later]]) -> None:
        self.total = total
        self.points: list[T] = []
        self.error = ""
        self.done = False
        self.wanted_until_s, self.not_before_s = math.inf, -math.inf
        self._work: Iterator[T | Instead[T] | Later] | None = None
        self._start = work

    @property
    def progress(self) -> tuple[int, int] | None:
        """(points measured, points in all) while it is being measured."""
        return None if self.done else (len(self.points), self.total)

    def advance(self) -> None:
        """Measure one more point, or one of them again."""
        try:
            self._work = self._work or self._start()
            match next(self._work):
                case Instead(at, point):
                    self.points[at] = point
                case Later(seconds):
                    self.not_before_s = time.monotonic() + seconds
                case point:
                    self.points.append(point)
        except StopIteration:
            self.done = True
        except ModelOptError as error:
            self.error, self.done = str(error), True
        except Exception as error:  # a defect of ours must not end the worker that serves everybody
            self.error, self.done = f"measuring stopped ({type(error).__name__}: {error})", True
        if self.done:  # what it was measured on need not be kept as long as the points
            self._work, self._start = None, lambda: iter(())


class Sweeper:
    """Runs sweeps one point at a time in a daemon thread; what was asked for last goes first."""

    def __init__(self) -> None:
        self._kept = Store(KEPT)
        self._queue: list[Sweep[Any]] = []
        self._wake = threading.Condition()
        self._at_work = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = False

    def request(
        self,
        key: str,
        total: int,
        work: Callable[[], Iterator[T | Instead[T] | Later]],
        size_bytes: int = POINT,
        patience_s: float = math.inf,
    ) -> Sweep[T]:
        """The sweep under `key`, begun now if nobody has asked for it yet; it goes to the front.

        size_bytes: of one point, for the memory that finished curves may take. patience_s: where nobody asks again
        for so long (a closed tab), it rests until somebody does.
        """
        sweep: Sweep[T] = self._kept.get(key, lambda: Sweep(total, work), lambda s: size_bytes * s.total)
        sweep.wanted_until_s = time.monotonic() + patience_s
        with self._wake:
            if not sweep.done:
                self._queue = [s for s in self._queue if s is not sweep] + [sweep]
                self._wake.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="modelopt-sweep", daemon=True)
                self._thread.start()
                atexit.register(self.stop)  # an interpreter must not end while ONNX Runtime is at work
        return sweep

    def forget(self) -> None:
        """Let go of every curve, the one that is being measured too; whoever asks again begins it anew."""
        self._kept.clear()
        with self._wake:
            for sweep in self._queue:
                sweep.wanted_until_s = -math.inf
            self._queue = []

    def idle(self, timeout_s: float = 30.0) -> bool:
        """Wait for the point that is being measured now; False where it takes longer."""
        if there := self._at_work.acquire(timeout=timeout_s):
            self._at_work.release()
        return there

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the worker after the point that it measures now."""
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _serve(self) -> None:
        with cores.background():
            while True:
                with self._wake:
                    self._queue = [s for s in self._queue if s.wanted_until_s > time.monotonic()]
                    self._wake.wait_for(lambda: bool(self._queue) or self._ending)
                    if self._ending:
                        return
                    now_s = time.monotonic()
                    ready = [s for s in self._queue if s.not_before_s <= now_s]
                    if not ready:
                        self._wake.wait(min(s.not_before_s for s in self._queue) - now_s)
                        continue
                    sweep = ready[-1]
                cores.pause()
                with self._at_work:
                    sweep.advance()
                if sweep.done:
                    with self._wake:
                        self._queue = [s for s in self._queue if s is not sweep]


SWEEPER = Sweeper()
