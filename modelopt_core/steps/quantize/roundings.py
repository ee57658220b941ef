"""Which of a grid's points a weight goes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.machine.events import Report
from modelopt_core.machine.registry import Registry


@dataclass(frozen=True, eq=False)
class RoundingContext:
    """What a rounding may look at.

    weight: (R, n); scale, zero_point: (1 or R, 1 or n), for each weight its own; inputs: (N, n), what the weights are
    multiplied with on N training examples or patches of them, or None where the rounding does not ask for data; gone:
    (R, n) bool, pruned weights, or None; whatever a rounding says of them, they stay zero.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    levels: int
    generator: torch.Generator
    report: Report
    inputs: Tensor | None = None
    gone: Tensor | None = None

    def kept(self, codes: Tensor) -> Tensor:
        """codes (R, n) with what is gone at the zero point, even one between two codes: its value is exactly zero."""
        return codes if self.gone is None else torch.where(self.gone, self.zero_point, codes)


ROUNDINGS: Registry[Callable[[RoundingContext], Tensor]] = Registry("rounding")


@ROUNDINGS.register("nearest", needs_data=False, iterative=False)
def nearest(c: RoundingContext) -> Tensor:
    """q = clamp(round(w / scale + zero_point), 0, levels − 1): weight (R, n) -> codes (R, n). Half goes to even.

    Source: Jacob et al., Quantization and training for integer-arithmetic-only inference, arXiv 1712.05877, eq. 1.
    """
    return torch.round(c.weight / c.scale + c.zero_point).clamp(0, c.levels - 1)


@ROUNDINGS.register("stochastic", needs_data=False, iterative=False)
def stochastic(c: RoundingContext) -> Tensor:
    """Up with the probability of the fraction, else down, so that the mean is right: weight (R, n) -> codes (R, n).

    Source: Gupta et al., Deep learning with limited numerical precision, arXiv 1502.02551.
    """
    draw = torch.rand(c.weight.shape, generator=c.generator)
    return torch.floor(c.weight / c.scale + c.zero_point + draw).clamp(0, c.levels - 1)
