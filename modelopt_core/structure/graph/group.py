"""Channels that go together, and the layers that touch them."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Member:
    """One side of a layer: it makes (`out`), reads (`in`) or carries (`norm`) the channels of a group.

    places: (C, repeat): where each channel lies among the `length` rows (`out`, `norm`) or columns (`in`).
    """

    layer: str
    role: str
    places: Tensor
    length: int

    @property
    def repeat(self) -> int:
        """Rows or columns of one channel."""
        return self.places.shape[1]


@dataclass
class Group:
    """Channels that the same layers touch; each may go by itself. `frozen` says why they must stay, or is empty."""

    name: str  # the first layer that makes them; "layer[i]" where its channels from i on part from the earlier ones
    size: int
    members: list[Member] = field(default_factory=list)
    frozen: str = ""

    @property
    def makers(self) -> list[str]:
        """Names of the layers that make these channels."""
        return [m.layer for m in self.members if m.role == "out"]
