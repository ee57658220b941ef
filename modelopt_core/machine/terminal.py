"""Progress on a terminal, or in a file."""

from __future__ import annotations

import time
from typing import TextIO

from modelopt_core.machine.events import Note, Progress

BAR_CELLS, LINE_EVERY_S = 24, 1.0


class Bar:
    """A report that draws Progress events on one line of a terminal, or one line a second into a file.

    >>> Bar(sys.stdout).draw(Progress("fetch", 1, 4, {"loss": 0.5}))
    'fetch [######                  ] 1/4 loss 0.5'
    """

    def __init__(self, out: TextIO) -> None:
        self.out, self.live = out, out.isatty()
        self._drawn, self._printed_s = "", 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live and self._drawn:
            self.out.write("\n")

    def __call__(self, event: object) -> None:
        if isinstance(event, Note):
            print(f"\n{event.text}" if self._drawn else event.text, file=self.out, flush=True)
            self._drawn = ""
        if not isinstance(event, Progress):
            return
        text, now = self.draw(event), time.monotonic()
        if self.live:
            self.out.write("\r" + text.ljust(len(self._drawn)))
            self.out.flush()
            self._drawn = text
        elif event.step >= event.total or now - self._printed_s >= LINE_EVERY_S:
            print(text, file=self.out, flush=True)
            self._printed_s = now

    def draw(self, event: Progress) -> str:
        """One event as text: phase, bar, step/total, values."""
        done = BAR_CELLS * min(event.step, event.total) // max(1, event.total)
        values = "".join(f" {name} {value:.4g}" for name, value in event.values.items())
        return f"{event.phase} [{'#' * done}{' ' * (BAR_CELLS - done)}] {event.step:,}/{event.total:,}{values}"
