"""Shared weights: a few values, wherever they lie best, instead of an evenly spaced grid."""

from __future__ import annotations

import torch
from torch import Tensor

from modelopt_core.models.weight_grid import Codebook

ITERATIONS = 100


def shared_values(weight: Tensor, levels: int) -> Codebook:
    """At most `levels` values that the weights (…) share, by k-means. Where some are exactly zero, zero is one of them.

    Source: Han et al., Deep Compression, arXiv 1510.00149, sec. 3.
    """
    values = weight.flatten().double()
    zero = values == 0
    others, pinned = values[~zero], values[zero][:1]
    free = levels - len(pinned)
    found = kmeans(others, free) if len(others) and free else others[:0]
    points = torch.cat([found, pinned]).to(weight.dtype).unique()  # sorted
    return Codebook(points)


def kmeans(values: Tensor, k: int, iterations: int = ITERATIONS) -> Tensor:
    """values (n,) -> at most k cluster means (k,), rising: Lloyd's iterations from evenly spaced means.

    On a line, clusters are runs of the sorted values: an iteration is k searches and k differences of running sums.
    Source: Lloyd, Least squares quantization in PCM, 1982; linear initialisation as in Han et al., arXiv 1510.00149.
    """
    ordered = values.sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centers = torch.linspace(float(ordered[0]), float(ordered[-1]), k, dtype=ordered.dtype)
    for _ in range(iterations):
        edges = torch.searchsorted(ordered, (centers[1:] + centers[:-1]) / 2)
        starts, stops = torch.cat([edges.new_zeros(1), edges]), torch.cat([edges, edges.new_tensor([len(ordered)])])
        counts = stops - starts
        moved = torch.where(counts > 0, (sums[stops] - sums[starts]) / counts.clamp(min=1), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers[counts > 0]
