"""What a network would need, before it has any memory: by sizes alone, for files that nobody vouches for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from modelopt_core.errors import ModelOptError
from modelopt_core.models.spec import Composition, Spec


def activations(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Numbers that one example (*shape) and what layers make of it may be in all; a bound, from sizes alone.

    No layer of an architecture here makes a picture or a text longer.
    """
    found = inputs = math.prod(shape)
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            found += layer.out_channels * math.prod(shape[-len(layer.kernel_size) :])
        elif isinstance(layer, nn.Embedding):
            found += layer.embedding_dim * inputs
        elif isinstance(layer, nn.Linear):
            found += layer.out_features
    return found


class Allowance(TorchFunctionMode):
    """Layers made inside have at most so many parameters in all, and are refused before they have memory."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.left = parameters

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is torch.empty:
            sizes = args[0] if args and isinstance(args[0], tuple | list) else args
            self.left -= math.prod(sizes)
            if self.left < 0:
                raise ModelOptError(f"{-self.left:,} parameters more than are allowed, in a layer of {tuple(sizes)}")
        return func(*args, **(kwargs or {}))


def leaves(spec: Spec) -> int:
    """Models in it that are not made of others."""
    return sum(map(leaves, spec.members)) if isinstance(spec, Composition) else 1
