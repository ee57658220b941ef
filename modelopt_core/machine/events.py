"""What the core says while it works: events through one `report` callable, never a print, never a widget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Progress:
    """`step` of `total` in a named `phase`, with the numbers known so far (loss, examples per second, …).

    best: makes the best model so far, where a training has a better one than it last told of. checkpoint: makes the
    bytes from which it can go on; to be called at once, before the report returns. training: its key, where a Keeper
    was asked for one.
    """

    phase: str
    step: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)
    best: Callable[[], nn.Module] | None = field(default=None, repr=False, compare=False)
    checkpoint: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)
    training: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Note:
    """One line that a person should read: what was done otherwise than asked, and why."""

    text: str


Report = Callable[[object], None]


@runtime_checkable
class Keeper(Protocol):
    """A report that keeps checkpoints, for trainings that may be killed and started again."""

    def __call__(self, event: object) -> None:
        """As any report."""

    def recall(self, training: str) -> bytes | None:
        """A training with this key begins: its last checkpoint, if one was kept. Those that follow are its own."""


@dataclass(frozen=True, eq=False)
class Relay:
    """A report that passes all on to `report`, where checkpoints come from; subclasses change what is told."""

    report: Report

    def __call__(self, event: object) -> None:
        """As any report."""
        self.report(event)

    def recall(self, training: str) -> bytes | None:
        """A checkpoint, where the report behind keeps any."""
        return self.report.recall(training) if isinstance(self.report, Keeper) else None


@dataclass(frozen=True, eq=False)
class NotesApart(Relay):
    """A report that keeps the notes to itself and passes everything else on to `report`."""

    notes: list[Note] = field(default_factory=list)

    def __call__(self, event: object) -> None:
        """As any report."""
        if isinstance(event, Note):
            self.notes.append(event)
        else:
            super().__call__(event)


@dataclass(frozen=True, eq=False)
class Part(Relay):
    """The report of one part of a work of `parts` like it, of which `done` are: steps count over all of them."""

    done: int
    parts: int

    def __call__(self, event: object) -> None:
        """As any report."""
        if isinstance(event, Progress):
            event = replace(event, step=self.done * event.total + event.step, total=self.parts * event.total)
        super().__call__(event)


def silent(_: object) -> None:
    """The report that nobody reads."""
