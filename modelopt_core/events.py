"""What the core says while it works: events through one `report` callable, never a print, never a widget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Progress:
    """`step` of `total` in a named `phase`, with the numbers known so far (loss, examples per second, …).

    best: makes the best model so far, where a training has a better one than it last told of.
    """

    phase: str
    step: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)
    best: Callable[[], nn.Module] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Note:
    """One line that a person should read: what was done otherwise than asked, and why."""

    text: str


Report = Callable[[object], None]


def silent(_: object) -> None:
    """The report that nobody reads."""
