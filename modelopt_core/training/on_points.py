"""Training weights that stay on their points: the gradient goes straight through the rounding; the points learn too.

`on_points` replaces every weight that lies on a grid or a codebook by a float twin that is rounded in each forward
pass. An optimizer sees the twins, the logarithms of the scales (so they stay positive, and a step is a share of them)
and the values of a codebook. `settled` puts the rounded weights and their learned points back.

Source: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, arXiv 1308.3432 (straight
through); Esser et al., Learned Step Size Quantization, arXiv 1902.08153; Jain et al., Trained Quantization Thresholds,
arXiv 1903.08066 (in the logarithm); Han et al., Deep Compression, arXiv 1510.00149, sec. 3.3 (codebooks).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modelopt_core.machine.events import Progress, Relay
from modelopt_core.models import weight_grid
from modelopt_core.models.weight_grid import Codebook, Grid, Points


class Rounding(torch.autograd.Function):
    """To the nearest of 0 … last; the gradient passes, except where it would push further out what is outside."""

    @staticmethod
    def forward(ctx: Any, place: Tensor, last: int) -> Tensor:
        """place, any shape -> whole numbers as floats."""
        ctx.save_for_backward(place)
        ctx.last = last
        return place.round().clamp_(0, last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """A step goes against the gradient."""
        (place,), (gradient,) = ctx.saved_tensors, gradients
        outwards = ((place < 0) & (gradient > 0)) | ((place > ctx.last) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None


class OnGrid(nn.Module):
    """Rounds a weight (R, …) to a grid whose scales are learned; the zero points stay."""

    zero_point: Tensor

    log_scale: Tensor

    def __init__(self, on: Grid, learned: bool = True) -> None:
        super().__init__()
        self.levels, self.group = on.levels, on.group
        _register(self, "log_scale", on.scale.log(), learned)
        self.register_buffer("zero_point", on.zero_point.detach().clone(), persistent=False)

    @property
    def points(self) -> Grid:
        """The grid as it stands."""
        return Grid(self.log_scale.exp(), self.zero_point, self.levels, self.group)

    def forward(self, weight: Tensor) -> Tensor:
        """weight (R, …) -> the nearest points, of the same shape."""
        scale, zero_point = self.points.rows(weight)
        codes: Tensor = Rounding.apply(weight / scale + zero_point, self.levels - 1)
        return (codes - zero_point) * scale


class OnBook(nn.Module):
    """Rounds a weight to a codebook whose values are learned; a value that is zero stays, as pruning wants it."""

    values: Tensor

    def __init__(self, on: Codebook, learned: bool = True) -> None:
        super().__init__()
        _register(self, "values", on.points, learned)

    @property
    def points(self) -> Codebook:
        """The codebook as it stands, rising."""
        return Codebook(torch.where(self.values == 0, self.values.detach(), self.values).sort().values)

    def forward(self, weight: Tensor) -> Tensor:
        """weight, any shape -> the nearest values; ∂/∂weight is 1."""
        on = self.points
        return on.values(on.nearest(weight)) + weight - weight.detach()


class Gone(nn.Module):
    """Behind the rounding of a pruned weight whose points have no zero: what is gone stays so. gone: (R, …) bool."""

    gone: Tensor

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.register_buffer("gone", gone, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """weight (R, …) -> the same with zeros."""
        return weight.masked_fill(self.gone, 0.0)


def on_points(model: nn.Module, learned: bool = True, floats: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy that trains on its points; a layer without points trains as it did, one that is frozen stays as it is.

    learned: scales and values of codebooks train as well. floats: layer -> its weight before it was quantized; where
    that still rounds to the same point, training goes on from there.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if parametrize.is_parametrized(module, "weight") or (found := weight_grid.codes(module)) is None:
            continue
        codes, on = found
        if module.weight.requires_grad:
            if floats and name in floats:
                same = on.nearest(floats[name]) == codes
                module.weight.data[same] = floats[name][same]
            rounding = OnBook(on, learned) if isinstance(on, Codebook) else OnGrid(on, learned)
            parametrize.register_parametrization(module, "weight", rounding)
            if bool((gone := codes == on.levels).any()):
                parametrize.register_parametrization(module, "weight", Gone(gone))
    return model


def _register(module: nn.Module, name: str, value: Tensor, learned: bool) -> None:
    """A parameter where it is learned, else a buffer."""
    value = value.detach().clone()
    module.register_parameter(name, nn.Parameter(value)) if learned else module.register_buffer(name, value)


@dataclass(frozen=True, eq=False)
class Settling(Relay):
    """A report that hears of the best model so far as `settled` makes it."""

    def __call__(self, event: object) -> None:
        """As any report."""
        if isinstance(event, Progress) and (best := event.best) is not None:
            event = replace(event, best=lambda: settled(best()))
        super().__call__(event)


@torch.no_grad()
def settled(model: nn.Module) -> nn.Module:
    """A copy of what `on_points` made as an ordinary model again: weights on points, and the points noted."""
    model = copy.deepcopy(model)
    parametrized: list[Any] = [m for m in model.modules() if parametrize.is_parametrized(m, "weight")]
    for module in parametrized:
        twin = module.parametrizations.weight.original.detach()
        points: Points = module.parametrizations.weight[0].points
        gone = [found.gone for found in module.parametrizations.weight if isinstance(found, Gone)]
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        module.weight.copy_(points.values(points.nearest(twin)))
        for off in gone:
            module.weight.masked_fill_(off, 0.0)
        for name in [name for name in module._parameters if name != "weight"]:  # the weight comes first, as before
            module._parameters[name] = module._parameters.pop(name)
        weight_grid.attach(module, points)
    return model
