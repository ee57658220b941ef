"""Pruning in rounds: how much is gone after each, and one progress over all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelopt_core.machine.events import Note, Progress, Relay

SCHEDULES = ("linear", "cubic")


def shares(rounds: int, schedule: str) -> list[float]:
    """The share of all that goes which is gone after round r of R: r/R linear, 1 − (1 − r/R)³ cubic; the last is 1.

    Cubic removes much while there is much to spare, and little at a time near the end.

    Source: Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model compression,
    arXiv 1710.01878, equation 1; rounds of pruning and training: Han et al., arXiv 1506.02626.
    """
    times = [(r + 1) / rounds for r in range(rounds)]
    return [1 - (1 - t) ** 3 if schedule == "cubic" else t for t in times]


@dataclass(frozen=True, eq=False)
class Round(Relay):
    """The report of round `at` (from 0) of `rounds`: its training is a part of the whole; the last has the notes."""

    at: int
    rounds: int

    def __call__(self, event: object) -> None:
        """Pass the event on; progress is that of all rounds."""
        if isinstance(event, Progress):
            done = self.at * event.total + event.step
            values = {"round": self.at + 1, **event.values}
            event = replace(event, phase="prune", step=done, total=self.rounds * event.total, values=values)
        if not isinstance(event, Note) or self.at + 1 == self.rounds:
            super().__call__(event)
