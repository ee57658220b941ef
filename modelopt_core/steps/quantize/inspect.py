"""What quantization did to each layer: where the error is, and what observers would have done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelopt_core.errors import unknown
from modelopt_core.files import mopt
from modelopt_core.machine.events import silent
from modelopt_core.models import weight_grid
from modelopt_core.steps.checks import FLOATS
from modelopt_core.steps.quantize.observers import OBSERVERS
from modelopt_core.steps.quantize.quantized_layers import weighted
from modelopt_core.steps.quantize.tensor import Scheme, quantize_tensor


@dataclass(frozen=True)
class LayerError:
    """One layer before and after.

    share: of the sum of squared errors of all layers; snr_db: 10 log10 of signal to error power; clipped: share of the
    weights that are more than half a step off, mostly because they lay outside the range; dead: channels whose weights
    are all zero now and were not; outlier: the largest weight in standard deviations; size_bytes, was_bytes: of the
    weight in the file, now and before.
    """

    layer: str
    bits: int
    share: float
    snr_db: float
    clipped: float
    dead: int
    outlier: float
    size_bytes: int
    was_bytes: int


def layer_errors(before: nn.Module, after: nn.Module) -> list[LayerError]:
    """A row for every layer with weights, in the order of definition; the two models have the same shapes."""
    sizes = [{row.name: row.size_bytes for row in mopt.sizes(model).rows} for model in (before, after)]
    weights = {
        name: [m.get_submodule(name).get_parameter("weight").detach() for m in (before, after)]
        for name, _ in weighted(after)
    }
    lost = {name: float((w - q).double().square().sum()) for name, (w, q) in weights.items()}
    found = []
    for name, layer in weighted(after):
        w, q = weights[name]
        points = weight_grid.points_of(layer)
        found.append(
            LayerError(
                layer=name,
                bits=math.ceil(math.log2(points.levels)) if points is not None else FLOATS,
                share=lost[name] / max(sum(lost.values()), 1e-300),
                snr_db=snr_db(w, q),
                clipped=_clipped(w, q, points),
                dead=int(((q.flatten(1) == 0).all(dim=1) & (w.flatten(1) != 0).any(dim=1)).sum()),
                outlier=float(w.abs().max() / w.std().clamp(min=1e-30)) if w.numel() > 1 else 1.0,
                size_bytes=sizes[1][f"{name}.weight"],
                was_bytes=sizes[0][f"{name}.weight"],
            )
        )
    return found


def names(model: nn.Module) -> list[str]:
    """Layers whose weights are quantized, in the order of definition."""
    return [name for name, _ in weighted(model)]


def largest(model: nn.Module) -> str:
    """The layer with the most weights."""
    return max(weighted(model), key=lambda pair: pair[1].get_parameter("weight").numel())[0]


def snr_db(before: Tensor, after: Tensor) -> float:
    """10 log10(Σ w² / Σ (w − ŵ)²); infinite without an error."""
    error = float((before - after).double().square().sum())
    return 10 * math.log10(max(float(before.double().square().sum()), 1e-300) / error) if error else math.inf


def observed(model: nn.Module, layer: str, scheme: Scheme) -> Mapping[str, float]:
    """Observer -> signal to noise in decibels of the layer's weight, rounded to nearest on the grid that it chooses."""
    layers = dict(weighted(model))
    if layer not in layers:
        raise unknown("layer", layer, layers)
    weight = layers[layer].get_parameter("weight").detach()
    found = {}
    for name in OBSERVERS:
        own = Scheme(scheme.bits, scheme.kind, scheme.per, name, scheme.group)
        values, _ = quantize_tensor(weight, own, "nearest", torch.Generator(), silent)
        found[name] = snr_db(weight, values)
    return found


def affine_form(values: Tensor, scale: float, zero_point: float) -> tuple[Tensor, Tensor]:
    """(codes, read back) in the form q = round(y · Q) + z and (q − z) / Q: values (n,) -> (n,), (n,).

    Q is the inverse of the scale elsewhere; −1 … 1 with Q = z = 127.5 fills 0 … 255.
    """
    codes = torch.round(values * scale) + zero_point
    return codes, (codes - zero_point) / scale


def affine_curve(scale: float, zero_point: float, count: int = 801) -> tuple[list[float], list[float], list[float]]:
    """(y, codes, read back − y) of `affine_form` for `count` values from −1 to 1."""
    y = torch.linspace(-1, 1, count, dtype=torch.float64)
    codes, back = affine_form(y, scale, zero_point)
    return y.tolist(), codes.tolist(), (back - y).tolist()


def _clipped(before: Tensor, after: Tensor, points: weight_grid.Points | None) -> float:
    if not isinstance(points, weight_grid.Grid):
        return 0.0
    scale, _ = points.rows(before)
    return float(((before - after).abs() > 0.501 * scale).float().mean())
