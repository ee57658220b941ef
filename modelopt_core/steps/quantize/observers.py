"""How the range of a grid is chosen: rows of weights in, a scale and a zero point for each row out.

All but `absmax` clip: what lies outside the range lands on its edge, and the rest is told apart more finely. For a
symmetric grid the rows come with their mirror image, so that the range is symmetric too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modelopt_core.machine.registry import Registry

OBSERVERS: Registry[Callable[[Tensor, int], tuple[Tensor, Tensor]]] = Registry("observer")

TAIL = 0.001  # share of a row that `percentile` clips at either end
SHARES = tuple(1 - 0.04 * i for i in range(24))  # of the whole range, tried by `mse` and `entropy`
BINS, LEAST_BINS, MOST_BINS = 8, 128, 512  # of the histograms of `entropy`: per level, and in all


@OBSERVERS.register("absmax", symmetric=True, affine=True)
def absmax(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The whole range: rows (R, n) -> scale (R,), zero_point (R,); nothing is clipped, an outlier costs resolution.

    Source: Jacob et al., Quantization and training for integer-arithmetic-only inference, arXiv 1712.05877.
    """
    return between(*ends(rows), levels)


@OBSERVERS.register("percentile", symmetric=True, affine=True)
def percentile(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """All but one weight in 1,000 at either end: rows (R, n) -> scale (R,), zero_point (R,).

    A row of fewer than 1,000 weights keeps its whole range.

    Source: McKinstry et al., Discovering low-precision networks close to full-precision networks for efficient
    embedded inference, arXiv 1809.04191; Wu et al., Integer quantization for deep learning inference, arXiv 2004.09602.
    """
    beyond = 1 + int(TAIL * rows.shape[1])
    low, high = (torch.topk(rows, beyond, dim=1, largest=end).values[:, -1] for end in (False, True))
    return between(low.clamp(max=0), high.clamp(min=0), levels)


@OBSERVERS.register("mse", symmetric=True, affine=True)
def mse(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The range with the smallest Σ (w − ŵ)², of 24 shares of the whole: rows (R, n) -> scale (R,), zero_point (R,).

    Source: Sung et al., Resiliency of deep neural networks under quantization, arXiv 1511.06488; Banner et al.,
    Post-training 4-bit quantization of convolution networks for rapid-deployment, arXiv 1810.05723.
    """

    def error(scale: Tensor, zero_point: Tensor) -> Tensor:
        scale, zero_point = scale[:, None], snapped(zero_point, levels)[:, None]
        steps = torch.div(rows, scale).add_(zero_point)
        return (steps.round().clamp_(0, levels - 1).sub_(zero_point).mul_(scale).sub_(rows)).square_().sum(dim=1)

    return best_share(rows, levels, error)


@OBSERVERS.register("entropy", symmetric=True, affine=True)
def entropy(rows: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The range that changes the histogram of the weights least: rows (R, n) -> scale (R,), zero_point (R,).

    The least Kullback–Leibler divergence, of 24 shares of the whole range, between a row's histogram and itself after
    every level has spread its count evenly over those of its bins that are not empty.

    Source: Migacz, 8-bit inference with TensorRT, GPU Technology Conference 2017 (there the clipped tail's count goes
    to the last bin).
    """
    bins = min(max(LEAST_BINS, BINS * levels), MOST_BINS)
    low, high = ends(rows)
    if levels >= bins:  # every bin has a level of its own
        return between(low, high, levels)
    width = ((high - low) / bins).clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
    places = ((rows - low[:, None]) / width).long().clamp_(0, bins - 1)
    counts = torch.zeros(len(rows), bins).scatter_add_(1, places, torch.ones_like(rows))  # (R, bins)
    there = (counts > 0).float()
    centers = low[:, None] + (torch.arange(bins) + 0.5) * width

    def divergence(scale: Tensor, zero_point: Tensor) -> Tensor:
        steps = torch.div(centers, scale[:, None]).add_(snapped(zero_point, levels)[:, None])
        level = steps.round_().clamp_(0, levels - 1).long()
        count = torch.zeros(len(rows), levels).scatter_add_(1, level, counts)
        size = torch.zeros(len(rows), levels).scatter_add_(1, level, there)
        return -(count * (count / size.clamp(min=1)).clamp(min=1).log()).sum(dim=1)  # plus what the row itself has

    return best_share(rows, levels, divergence)


def ends(rows: Tensor) -> tuple[Tensor, Tensor]:
    """rows (R, n) -> the smallest and the largest of each row and zero (R,), (R,): zero stays on the grid."""
    return rows.amin(dim=1).clamp(max=0), rows.amax(dim=1).clamp(min=0)


def between(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The grid from low ≤ 0 to high ≥ 0: (R,), (R,) -> scale (R,), zero_point (R,); an empty range gets the scale 1."""
    scale = (high - low) / (levels - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, -low / scale


def snapped(zero_point: Tensor, levels: int) -> Tensor:
    """The zero point as it will be used: whole, unless it is the exact middle, as in a symmetric grid."""
    middle = (levels - 1) / 2
    return torch.where((zero_point - middle).abs() < 1e-3, middle, zero_point.round())


def best_share(rows: Tensor, levels: int, cost: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """For each row the share of its range with the smallest cost (scale (R,), zero_point (R,)) -> (R,)."""
    low, high = ends(rows)
    least = torch.full_like(low, torch.inf)
    scale, zero_point = between(low, high, levels)
    for share in SHARES:
        tried = between(share * low, share * high, levels)
        found = cost(*tried)
        better = found < least
        least = torch.where(better, found, least)
        scale, zero_point = (torch.where(better, new, old) for new, old in zip(tried, (scale, zero_point), strict=True))
    return scale, zero_point
