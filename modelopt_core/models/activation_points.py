"""Activations on few levels: a layer's input goes to the nearest point of a grid before the layer reads it.

The grid is noted on the layer as that of its weight is. In PyTorch the rounding is simulated in floats; in ONNX it is a
QuantizeLinear and DequantizeLinear pair, which runtimes turn into integer arithmetic where the weights allow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.models import weight_grid
from modelopt_core.models.weight_grid import Grid

NAME = "input"  # the grid's, beside "weight"
UINT8 = 255  # the largest code that ONNX has; fewer levels are clipped before


def attach(layer: nn.Module, on: Grid) -> None:
    """Round the input of `layer` to the grid from now on. on: one scale and one whole zero_point, up to 256 levels."""
    weight_grid.attach(layer, on, NAME)
    if _rounded not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(_rounded)


def grid_of(layer: nn.Module) -> Grid | None:
    """The grid that the layer's input is rounded to, or None."""
    on = weight_grid.points_of(layer, NAME)
    return on if isinstance(on, Grid) else None


def noted(model: nn.Module) -> dict[str, tuple[float, int, int]]:
    """Layer -> (scale, zero_point, levels) of the grid that its input is rounded to: what a file stores."""
    grids = {name: grid_of(layer) for name, layer in model.named_modules()}
    return {n: (float(on.scale), int(on.zero_point), on.levels) for n, on in grids.items() if on is not None}


def restore(model: nn.Module, stored: Mapping[str, Sequence[float]]) -> None:
    """Attach the grids that `noted` told of; ModelOptError for what is no grid of an input."""
    for name, (scale, zero_point, levels) in stored.items():
        if not (0 < scale < math.inf and 2 <= levels <= UINT8 + 1 and 0 <= zero_point < levels):
            raise ModelOptError(f"scale {scale}, zero point {zero_point} and {levels} levels are no grid for {name!r}")
        attach(model.get_submodule(name), Grid(torch.tensor([scale]), torch.tensor([float(zero_point)]), int(levels)))


def _rounded(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """(x, …) -> (x on the grid, …); gradients pass as if nothing happened, where nothing is clipped."""
    on = grid_of(layer)
    if on is None:
        return args
    x: Tensor = args[0]
    scale, zero_point = float(on.scale), int(on.zero_point)
    if on.levels <= UINT8:
        x = x.clamp(-zero_point * scale, (on.levels - 1 - zero_point) * scale)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, UINT8), *args[1:]
