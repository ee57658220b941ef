"""The integer grid that a quantized weight lies on: value = (q − zero_point) · scale, q in 0 … levels − 1.

The weight itself stays an ordinary float Parameter whose values lie on the grid, so every other technique works on it
unchanged. The grid travels beside it as buffers, and the codes are recomputed from the values when a file or an int8
graph needs them. A weight that was changed afterwards no longer lies on its grid: `codes` then says None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Grid:
    """scale: (R,) float; zero_point: (R,) float; R = 1 (per tensor) or the weight's first dimension (per channel).

    A symmetric grid of b ≥ 2 bits has 2**b − 1 levels around an integer zero_point, so that zero is exact; one bit has
    two levels and zero_point 0.5: values ± scale / 2.
    """

    scale: Tensor
    zero_point: Tensor
    levels: int

    def rows(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """scale and zero_point shaped (R, 1, …) to broadcast over `weight`."""
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


def attach(module: nn.Module, grid: Grid, name: str = "weight") -> None:
    """Note on `module` that its parameter `name` lies on `grid`, in buffers that follow copies but not state dicts."""
    module.register_buffer(f"{name}_scale", grid.scale, persistent=False)
    module.register_buffer(f"{name}_zero_point", grid.zero_point, persistent=False)
    module.__dict__[f"{name}_levels"] = grid.levels


def grid_of(module: nn.Module, name: str = "weight") -> Grid | None:
    """The grid noted on `module`, or None."""
    scale = getattr(module, f"{name}_scale", None)
    if scale is None:
        return None
    return Grid(scale, getattr(module, f"{name}_zero_point"), getattr(module, f"{name}_levels"))


def codes(module: nn.Module, name: str = "weight") -> tuple[Tensor, Grid] | None:
    """(codes int32 of the weight's shape, grid) when the values lie exactly on the noted grid, else None.

    A weight that is exactly zero where the grid has no zero (pruned after one-bit quantization) gets code `levels`.
    """
    grid = grid_of(module, name)
    if grid is None:
        return None
    weight = getattr(module, name).detach()
    q = grid.nearest(weight)
    back = grid.values(q)
    off = back != weight
    if bool(off.any()):
        if bool((weight[off] != 0).any()):
            return None
        q[off] = grid.levels
    return q, grid
