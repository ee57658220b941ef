"""What reaches each layer and what it makes of it, on training examples: where techniques that look at data start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.workloads.workload import Workload


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer in a forward pass over b examples. x: its input; y: its output; g: (b times) ∂loss/∂y."""

    layer: nn.Module
    x: Tensor
    y: Tensor
    g: Tensor


def sample(n: int, most: int, seed: int = 0) -> Tensor:
    """(k,) sorted indices of k = min(most, n) of n examples: evenly spaced for seed 0, else drawn at random."""
    k = min(most, n)
    if seed == 0:
        return torch.arange(k) * n // k
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k].sort().values


def calls(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    workload: Workload,
    x: Tensor,
    targets: Tensor | None = None,
    slopes: bool = False,
) -> list[tuple[str, Call]]:
    """(name, use) of every layer, in the order of the forward pass, on inputs x (b, *shape).

    slopes: also the gradients, from a backward pass with the `targets`; else they are zero.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
            seen.append((name, args[0].detach().clone(), y))
            return y.clone()  # what follows may write in place

        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    try:
        with torch.set_grad_enabled(slopes):
            outputs = workload.forward(model, x)
            loss = workload.loss(outputs, targets) * len(x) if slopes and targets is not None else None
    finally:
        for handle in handles:
            handle.remove()
    results = [y for _, _, y in seen]
    gs: Any = [None] * len(results) if loss is None else torch.autograd.grad(loss, results, allow_unused=True)
    return [
        (name, Call(layers[name], x, y.detach(), y.new_zeros(()).expand_as(y) if g is None else g.detach()))
        for (name, x, y), g in zip(seen, gs, strict=True)
    ]
