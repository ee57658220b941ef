"""A step on the bench's model, or on members that it makes one; known before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import nn

from pages.state import pin, stack
from pages.state.bench import Bench
from pages.state.stack import Stack


@dataclass(frozen=True, eq=False)
class Setting:
    """What a page asks for. members: of a step of several, in order."""

    bench: Bench
    step: Any
    members: tuple[Stack, ...] = field(default=(), kw_only=True)

    @property
    def subject(self) -> str:
        """What the step works on: cnn, or cnn + mlp."""
        return " + ".join(stack.names(self.members)) if self.members else self.bench.model_name

    @property
    def begin(self) -> tuple[Stack, ...]:
        """The members, or the bench's model."""
        return self.members or (pin.came(self.bench),)

    @property
    def models(self) -> list[nn.Module]:
        """`begin` as modules; made once, the core keeps them."""
        return stack.models(self.members, self.bench.workload) or [self.bench.model]

    def other(self, step: Any) -> Self:
        """Another step on the same."""
        return replace(self, step=step)
