"""The points that a quantized weight lies on: an evenly spaced `Grid`, or a `Codebook` of any values.

The weight itself stays an ordinary float Parameter whose values are such points, so every other technique works on it
unchanged. The points travel beside it as buffers, and the codes are recomputed from the values when a file or an
integer graph needs them. A weight that was changed afterwards no longer lies on its points: `codes` then says None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NOTED = re.compile(r"(weight|bias|input)_(points|scale|zero_point|group|levels)$")  # what `attach` adds to a module


@dataclass(frozen=True, eq=False)
class Grid:
    """value = (q − zero_point) · scale, q in 0 … levels − 1.

    scale, zero_point: float (R,), R = 1 (per tensor) or the weight's first dimension (per channel); with a `group`, (R,
    ⌈n / group⌉): every so many weights in a row of n have their own, the last ones of a row may be fewer.

    A symmetric grid of b ≥ 2 bits has 2**b − 1 levels around an integer zero_point, so that zero is exact; one bit has
    two levels and zero_point 0.5: values ± scale / 2.
    """

    scale: Tensor
    zero_point: Tensor
    levels: int
    group: int = 0

    def rows(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """scale and zero_point shaped to broadcast over `weight` (R, …)."""
        if self.group:
            return _spread(self.scale, self.group, weight), _spread(self.zero_point, self.group, weight)
        shape = (-1,) + (1,) * (weight.dim() - 1)
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def values(self, codes: Tensor) -> Tensor:
        """codes (R, …) -> float values of the same shape; the one expression that everything decodes with."""
        scale, zero_point = self.rows(codes)
        return (codes.to(scale.dtype) - zero_point) * scale

    def nearest(self, weight: Tensor) -> Tensor:
        """weight (R, …) -> int32 codes of the nearest grid points."""
        scale, zero_point = self.rows(weight)
        return torch.round(weight / scale + zero_point).clamp_(0, self.levels - 1).to(torch.int32)


@dataclass(frozen=True, eq=False)
class Codebook:
    """value = points[q]: weights that share few values. points: float (levels,), rising."""

    points: Tensor

    @property
    def levels(self) -> int:
        """How many values there are."""
        return len(self.points)

    def values(self, codes: Tensor) -> Tensor:
        """codes, any shape -> float values of the same shape."""
        return self.points[codes.long()]

    def nearest(self, weight: Tensor) -> Tensor:
        """weight, any shape -> int32 codes of the nearest points; halfway goes down."""
        points = self.points.double()
        return torch.bucketize(weight.double(), (points[1:] + points[:-1]) / 2, out_int32=True)


Points = Grid | Codebook


def attach(module: nn.Module, points: Points, name: str = "weight") -> None:
    """Note on `module` that parameter `name` lies on `points`, in buffers that follow copies but not state dicts."""
    detach(module, name)
    if isinstance(points, Codebook):
        module.register_buffer(f"{name}_points", points.points, persistent=False)
    else:
        module.register_buffer(f"{name}_scale", points.scale, persistent=False)
        module.register_buffer(f"{name}_zero_point", points.zero_point, persistent=False)
        module.__dict__[f"{name}_group"] = points.group
    module.__dict__[f"{name}_levels"] = points.levels


def detach(module: nn.Module, name: str = "weight") -> None:
    """Forget what was noted: the parameter's values are floats like any others."""
    for what in ("points", "scale", "zero_point"):
        module._buffers.pop(f"{name}_{what}", None)
        module._non_persistent_buffers_set.discard(f"{name}_{what}")
    for what in ("group", "levels"):
        module.__dict__.pop(f"{name}_{what}", None)


def points_of(module: nn.Module, name: str = "weight") -> Points | None:
    """The points noted on `module`, or None."""
    points, scale = getattr(module, f"{name}_points", None), getattr(module, f"{name}_scale", None)
    if points is not None:
        return Codebook(points)
    if scale is None:
        return None
    group = module.__dict__.get(f"{name}_group", 0)
    return Grid(scale, getattr(module, f"{name}_zero_point"), getattr(module, f"{name}_levels"), group)


def codes(module: nn.Module, name: str = "weight") -> tuple[Tensor, Points] | None:
    """(codes int32 of the weight's shape, points) when the values lie exactly on the noted points, else None.

    A weight that is exactly zero where no point is zero (pruned after one-bit quantization) gets code `levels`.
    """
    points = points_of(module, name)
    if points is None:
        return None
    weight = getattr(module, name).detach()
    q = points.nearest(weight)
    back = points.values(q)
    off = back != weight
    if bool(off.any()):
        if bool((weight[off] != 0).any()):
            return None
        q[off] = points.levels
    return q, points


def _spread(numbers: Tensor, group: int, weight: Tensor) -> Tensor:
    """(R, G) -> the shape of `weight` (R, …), each number over a run of `group` along the flattened rest."""
    width = weight[0].numel()
    return numbers.repeat_interleave(group, dim=1)[:, :width].reshape(weight.shape)
