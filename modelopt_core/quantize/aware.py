"""Quantization-aware training: the forward pass sees rounded weights, the gradient goes to what was rounded."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modelopt_core import grid
from modelopt_core.events import Keeper, Progress, Report
from modelopt_core.grid import Codebook, Grid, Points
from modelopt_core.quantize.layers import weighted
from modelopt_core.train import TrainingError, fit
from modelopt_core.workload import Workload

LEAST_STEP = 0.01  # of a learned step size, as a share of what it began with


class Rounded(nn.Module):
    """weight (R, …) -> its nearest points, with the gradient of doing nothing where nothing is clipped.

    learned: also a gradient for the step sizes, or for the shared values, in multiples of what they begin with.

    Source: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, arXiv 1308.3432
    (straight-through); Esser et al., Learned Step Size Quantization, arXiv 1902.08153; for shared values Han et al.,
    Deep Compression, arXiv 1510.00149.
    """

    unit: Tensor
    zero_point: Tensor | None
    multiple: Tensor

    def __init__(self, points: Points, learned: bool) -> None:
        super().__init__()
        self.levels, self.group, self.learned = points.levels, getattr(points, "group", 0), learned
        unit = points.scale if isinstance(points, Grid) else points.points.abs().amax().expand(points.levels)
        self.register_buffer("unit", unit.clone())
        self.register_buffer("zero_point", points.zero_point.clone() if isinstance(points, Grid) else None)
        start = torch.ones_like(unit) if isinstance(points, Grid) else points.points / unit
        self.register_parameter("multiple", nn.Parameter(start)) if learned else self.register_buffer("multiple", start)

    def points(self) -> Points:
        """The points as training has them now. A shared value of zero stays zero."""
        if self.zero_point is None:
            return Codebook((self.multiple * self.unit * (self.multiple != 0)).sort().values)
        scale = self.multiple.clamp(min=LEAST_STEP) * self.unit
        return Grid(scale, self.zero_point, self.levels, self.group)

    def forward(self, weight: Tensor) -> Tensor:
        points = self.points()
        if isinstance(points, Codebook):
            return points.values(points.nearest(weight.detach())) + weight - weight.detach()
        scale, zero_point = points.rows(weight)
        steps = (weight / scale + zero_point).clamp(0, points.levels - 1)
        return (steps + (steps.round() - steps).detach() - zero_point) * scale

    def extra_repr(self) -> str:
        """What tells two of them apart beside their tensors."""
        return f"levels={self.levels}, group={self.group}, learned={self.learned}"


@dataclass(frozen=True)
class _Settling:
    """A report whose models in training arrive as ordinary quantized ones."""

    report: Report

    def __call__(self, event: object) -> None:
        if isinstance(event, Progress) and (best := event.best):
            event = replace(event, best=lambda: settled(best()))
        self.report(event)

    def recall(self, training: str) -> bytes | None:
        return self.report.recall(training) if isinstance(self.report, Keeper) else None


def train_quantized(
    model: nn.Module,
    floats: dict[str, Tensor],
    workload: Workload,
    learned: bool,
    *,
    epochs: int,
    lr: float,
    seed: int,
    report: Report,
) -> nn.Module:
    """A copy of a quantized model, trained with its weights rounded in every forward pass; they end on their points.

    floats: layer -> its weight before; training begins there where that rounds to the same point. learned: the step
    sizes too (LSQ). Weights that are exactly zero stay so. The model as it came is a candidate.
    """
    model = copy.deepcopy(model)
    for name, layer in weighted(model):
        found, weight = grid.codes(layer), layer.get_parameter("weight")
        if found is None:
            continue
        codes, points = found
        weight.data.copy_(torch.where(points.nearest(floats[name]) == codes, floats[name], weight))
        grid.detach(layer)
        parametrize.register_parametrization(layer, "weight", Rounded(points, learned), unsafe=True)
    try:
        trained = fit(model, workload, epochs=epochs, lr=lr, keep_zeros=True, seed=seed, report=_Settling(report))
    except TrainingError as error:
        raise TrainingError(str(error), settled(error.best)) from None
    return settled(trained)


@torch.no_grad()
def settled(model: nn.Module) -> nn.Module:
    """The model with its weights left on their points and the parametrizations taken away, in place."""
    for layer in model.modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        kept = layer.parametrizations.weight  # type: ignore[union-attr]
        points, weight = kept[0].points(), kept.original.detach()  # type: ignore[index, union-attr, operator]
        if isinstance(points, Codebook):
            points = Codebook(points.points.unique())
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.get_parameter("weight").copy_(points.values(points.nearest(weight)))
        grid.attach(layer, points)
    return model
