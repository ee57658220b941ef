"""How to make a module again, without its weights: what a file or an index stores beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelopt_core.machine.registry import Registry

ARCHITECTURES: Registry[Callable[..., nn.Module]] = Registry("architecture")  # what a spec may ask for
Argument = int | float | str | tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """How to make a module again, without its weights.

    arguments: sorted (name, value) pairs; input_shape: one example without the batch axis; kept: (group, channels left)
    for every group that was cut narrower than the architecture says (see channels.py).
    """

    architecture: str
    arguments: tuple[tuple[str, Argument], ...]
    input_shape: tuple[int, ...]
    input_dtype: str = "float32"  # or "int64", for token ids
    kept: tuple[tuple[str, int], ...] = ()

    @property
    def example(self) -> Tensor:
        """(1, *input_shape) zeros of the right type, for tracing."""
        return torch.zeros(1, *self.input_shape, dtype=getattr(torch, self.input_dtype))


@dataclass(frozen=True)
class Composition(Spec):
    """How to make a module that is made of others. members: their specs; arguments: of the composite's own kind."""

    members: tuple[Spec, ...] = ()


def spec_of(model: nn.Module) -> Spec | None:
    """The spec noted on a module that `build` made, or None for a user's own class."""
    return model.__dict__.get("spec")
