"""Quantization: fewer bits per weight.

Every weight becomes a whole number q = round(w / scale + zero_point) of `bits` bits, and is read back as
(q − zero_point) · scale. An observer chooses the grid, a rounding chooses the point on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from modelopt_core import grid
from modelopt_core.events import Report
from modelopt_core.layers import WEIGHTED
from modelopt_core.registry import Registry
from modelopt_core.step import STEPS, Knob, Named, Transform
from modelopt_core.workload import Workload

OBSERVERS: Registry[Callable[[Tensor, int], tuple[Tensor, Tensor]]] = Registry("observer")


@OBSERVERS.register("absmax", symmetric=True, affine=True)
def absmax(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The whole range: rows (R, n) -> scale (R,), zero_point (R,); nothing is clipped, an outlier costs resolution.

    For a symmetric grid the rows come with their mirror image, so that the range is ±max |w|.

    Source: Jacob et al., Quantization and training for integer-arithmetic-only inference, arXiv 1712.05877.
    """
    low, high = rows.amin(dim=1).clamp(max=0), rows.amax(dim=1).clamp(min=0)  # zero stays on the grid
    scale = (high - low) / (levels - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, -low / scale


@dataclass(frozen=True, eq=False)
class RoundingContext:
    """What a rounding may look at. weight: (R, n); scale, zero_point: (R, 1); inputs: (N, n) or None."""

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    levels: int
    generator: torch.Generator
    report: Report
    inputs: Tensor | None = None


ROUNDINGS: Registry[Callable[[RoundingContext], Tensor]] = Registry("rounding")


@ROUNDINGS.register("nearest", needs_data=False, iterative=False)
def nearest(c: RoundingContext) -> Tensor:
    """q = clamp(round(w / scale + zero_point), 0, levels − 1): weight (R, n) -> codes (R, n). Half goes to even.

    Source: Jacob et al., Quantization and training for integer-arithmetic-only inference, arXiv 1712.05877, eq. 1.
    """
    return torch.round(c.weight / c.scale + c.zero_point).clamp(0, c.levels - 1)


def quantize_tensor(
    weight: Tensor,
    bits: int,
    scheme: str,
    per: str,
    observer: str,
    rounding: str,
    generator: torch.Generator,
    report: Report,
) -> tuple[Tensor, grid.Grid]:
    """weight (R, …) -> (values on the grid, of the same shape, and the grid).

    scheme: 'symmetric' (2**bits − 1 levels, zero exact; one bit has two) or 'affine' (2**bits levels); per: 'tensor' or
    'channel' (a grid per first index).
    """
    rows = weight.flatten(1) if per == "channel" else weight.reshape(1, -1)
    symmetric = scheme == "symmetric"
    levels = 2**bits - 1 if symmetric and bits > 1 else 2**bits
    scale, zero_point = OBSERVERS[observer](torch.cat([rows, -rows], dim=1) if symmetric else rows, levels)
    zero_point = torch.full_like(scale, (levels - 1) / 2) if symmetric else zero_point.round().clamp(0, levels - 1)
    context = RoundingContext(rows, scale[:, None], zero_point[:, None], levels, generator, report)
    lattice = grid.Grid(scale, zero_point, levels)
    return lattice.values(ROUNDINGS[rounding](context)).view_as(weight), lattice


@STEPS.register("Quantize")
class Quantize(Transform):
    """Store every weight as a whole number of `bits` bits on a grid of its own."""

    sentence: ClassVar[str] = "Store each weight in fewer bits. How coarse can the grid be before the answers change?"
    formula: ClassVar[str] = "q = round(w / s + z)"

    bits: Annotated[int, Knob(1, 8, 1, "b")] = Field(8, ge=1, le=8, title="Bits", description="Bits per weight.")
    scheme: Literal["symmetric", "affine"] = Field(
        "symmetric", title="Grid", description="Centred on zero, or from the smallest weight to the largest."
    )
    per: Literal["tensor", "channel"] = Field(
        "channel", title="One grid per", description="One scale for the whole tensor, or one for each output channel."
    )
    observer: Annotated[str, Named(OBSERVERS)] = Field(
        "absmax", title="Observer", description="How the range of the grid is chosen."
    )
    rounding: Annotated[str, Named(ROUNDINGS)] = Field(
        "nearest", title="Rounding", description="Which grid point a weight goes to."
    )

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        for layer in model.modules():
            if isinstance(layer, WEIGHTED):
                values, lattice = quantize_tensor(
                    layer.weight, self.bits, self.scheme, self.per, self.observer, self.rounding, generator, report
                )
                layer.weight.copy_(values)
                grid.attach(layer, lattice)
        return model
