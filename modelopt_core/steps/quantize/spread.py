"""Where the points of one layer lie, and how many weights went where: at every number of bits whose result is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import unknown
from modelopt_core.models import weight_grid
from modelopt_core.steps.quantize.inspect import snr_db
from modelopt_core.steps.quantize.quantized_layers import weighted

BINS = 96
MOST_GRIDS = 24  # of one layer that are drawn
MOST_POINTS = 256  # of a codebook that are drawn: more are nearer to each other than pixels
DIGITS = 5  # significant ones of a scale: a hundredth of a step at 8 bits


@dataclass(frozen=True, eq=False)
class Spread:
    """A layer on its points. after: (BINS,) counts; snr_db: signal to noise, None without an error.

    levels: points that a weight chooses from, 0 where it keeps its floats; grids: which of how many (`of`) are listed,
    the finest first, with their scale and zero_point, each (grids,); points: of a codebook.
    """

    after: list[int]
    snr_db: float | None
    levels: int = 0
    of: int = 0
    grids: list[int] | None = None
    scale: list[float] | None = None
    zero_point: list[float] | None = None
    points: list[float] | None = None


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's weights in BINS equal bins from low to high. before: (BINS,) counts; at: bits -> what became of them.

    unit: what has a grid of its own: tensor, channel or group.
    """

    low: float
    high: float
    before: list[int]
    at: Mapping[int, Spread]
    unit: str


def spread(model: nn.Module, results: Mapping[int, nn.Module], layer: str, unit: str = "tensor") -> Weights:
    """One layer of the model, and of what it became at each number of bits."""
    layers = dict(weighted(model))
    if layer not in layers:
        raise unknown("layer", layer, layers)
    weight = _weight(model, layer)
    found = {bits: _weight(result, layer) for bits, result in results.items()}
    low, high = (float(end(torch.stack([end(w) for w in (weight, *found.values())]))) for end in (torch.min, torch.max))
    edge = 0.5 * (high - low) / BINS or 1.0
    low, high = low - edge, high + edge
    noise = {bits: snr_db(weight, w) for bits, w in found.items()}
    at = {
        bits: Spread(
            _counts(w, low, high), noise[bits] if math.isfinite(noise[bits]) else None, **_points(results[bits], layer)
        )
        for bits, w in found.items()
    }
    return Weights(low, high, _counts(weight, low, high), at, unit)


def _weight(model: nn.Module, layer: str) -> Tensor:
    return model.get_submodule(layer).get_parameter("weight").detach()


def _counts(weight: Tensor, low: float, high: float) -> list[int]:
    counts: list[int] = torch.histc(weight, BINS, low, high).int().tolist()
    return counts


def _points(model: nn.Module, layer: str) -> dict[str, Any]:
    """The fields of a Spread that say where the points are."""
    on = weight_grid.points_of(model.get_submodule(layer))
    if on is None:
        return {}
    if isinstance(on, weight_grid.Codebook):
        return {"levels": on.levels, "points": on.points.tolist() if on.levels <= MOST_POINTS else []}
    count = on.scale.numel()
    few = min(count, MOST_GRIDS)
    at = torch.arange(few) * (count - 1) // max(1, few - 1)  # the first and the last are among them
    some = on.scale.flatten().argsort(stable=True)[at]
    scale, zero_point = ([_short(x) for x in t.flatten()[some].tolist()] for t in (on.scale, on.zero_point))
    return {"levels": on.levels, "of": count, "grids": some.tolist(), "scale": scale, "zero_point": zero_point}


def _short(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
