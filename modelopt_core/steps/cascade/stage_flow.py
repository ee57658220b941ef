"""Who leaves where, at what cost: arithmetic on what the stages have said. Nothing here runs a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.cascade.confidences import stops

GRID = {1: 2000, 2: 120, 3: 32}  # thresholds tried per gate, by the number of gates: at most 33,000 settings

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Flow:
    """What happened at one setting. at: (N,) the stage where each example left; scores: (N,); by stage (S,): reached,
    left, and the score of those that left there, 0 where nobody did."""

    at: Tensor
    scores: Tensor
    reached: tuple[int, ...]
    left: tuple[int, ...]
    stage_scores: tuple[float, ...]

    def cost(self, costs: Sequence[float]) -> float:
        """Mean cost of an example, in the unit of costs (S,), which say what each stage adds."""
        return sum(n * cost for n, cost in zip(self.reached, costs, strict=True)) / len(self.at)

    def early_and_wrong(self) -> Tensor:
        """Indices of the examples that a stage before the last let go with a score of less than ½."""
        return ((self.at < len(self.left) - 1) & (self.scores < 0.5)).nonzero()[:, 0]


@dataclass(frozen=True)
class Choice:
    """One setting: thresholds (S − 1,), the score on the examples that chose it, the mean cost of one."""

    thresholds: tuple[float, ...]
    score: float
    cost: float


def flow(confidence: Tensor, scores: Tensor, thresholds: Sequence[float]) -> Flow:
    """confidence, scores: (S, N), as if every stage had answered everything; thresholds: (S − 1,)."""
    at = stops(confidence, thresholds)
    left = torch.bincount(at, minlength=len(scores))
    got = scores.gather(0, at[None])[0]
    sums = torch.zeros(len(scores), dtype=got.dtype).index_add(0, at, got)
    reached = left.flip(0).cumsum(0).flip(0)
    return Flow(at, got, tuple(reached.tolist()), tuple(left.tolist()), tuple((sums / left.clamp_min(1)).tolist()))


def best_thresholds(
    confidence: Tensor, scores: Tensor, costs: Sequence[float], *, score: float | None = None, cost: float | None = None
) -> Choice:
    """The cheapest thresholds whose score is at least `score`, or the best-scoring whose mean cost is at most `cost`.

    confidence, scores: (S, N); costs: (S,), what each stage adds. All combinations of up to GRID quantiles a gate are
    tried; with two stages and 2,000 examples or fewer that is every setting there is. ModelOptError where none will do.
    """
    if (score is None) == (cost is None):
        raise ModelOptError("give a score to reach or a cost to keep to, and not both")
    thresholds, reached, spent = _settings(confidence, scores, costs)
    if score is not None and reached.max() < score - 1e-12:
        raise ModelOptError(
            f"no thresholds reach a score of {score:.2%}; these stages reach {reached.max():.2%} at most"
        )
    if cost is not None and spent.min() > cost + 1e-12:
        raise ModelOptError(f"no thresholds cost {cost:g} or less; the first stage alone costs {spent.min():g}")
    if score is not None:
        order = np.lexsort((-reached, spent))
        best = order[reached[order] >= score - 1e-12][0]
    else:
        order = np.lexsort((spent, -reached))
        best = order[spent[order] <= cost + 1e-12][0]  # type: ignore[operator]
    return Choice(tuple(thresholds[best].tolist()), float(reached[best]), float(spent[best]))


def front(confidence: Tensor, scores: Tensor, costs: Sequence[float]) -> list[Choice]:
    """The settings that no other beats in both score and cost, the cheapest first."""
    thresholds, reached, spent = _settings(confidence, scores, costs)
    order = np.lexsort((-reached, spent))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], reached[order][:-1]]))
    keep = order[reached[order] > best + 1e-12]
    return [Choice(tuple(thresholds[i].tolist()), float(reached[i]), float(spent[i])) for i in keep]


def _settings(confidence: Tensor, scores: Tensor, costs: Sequence[float]) -> tuple[Floats, Floats, Floats]:
    """All settings of a grid: thresholds (G, S − 1), score (G,), cost (G,).

    An example passes gate s at its first thresholds, those up to its own confidence. Counting examples by how many they
    pass at each gate and summing along the axes gives every setting at once.
    """
    gates = len(scores) - 1
    if gates not in GRID:
        raise ModelOptError(f"thresholds are searched for 2 to {len(GRID) + 1} stages, not for {len(scores)}")
    c, right, n = confidence.double().numpy(), scores.double().numpy(), scores.shape[1]
    grids = [_grid(row, GRID[gates]) for row in c[:-1]]
    passed = [np.searchsorted(grid, row, side="right") for grid, row in zip(grids, c, strict=False)]  # each (N,)
    sizes = [len(grid) + 1 for grid in grids]
    score = np.zeros([len(grid) for grid in grids])
    cost = np.full_like(score, costs[0])
    for stage in range(gates + 1):
        axes = min(stage + 1, gates)
        bins = tuple(passed[:axes])
        counts = np.zeros(sizes[:axes])
        np.add.at(counts, bins, right[stage])
        for axis in range(axes):
            below = np.take(counts.cumsum(axis), range(sizes[axis] - 1), axis)  # did not pass
            counts = counts.sum(axis, keepdims=True) - below if axis == stage else below
        score += counts.reshape(counts.shape + (1,) * (gates - axes))
        if stage < gates:
            went = np.zeros(sizes[:axes])
            np.add.at(went, bins, costs[stage + 1])
            for axis in range(axes):
                went = np.take(went.cumsum(axis), range(sizes[axis] - 1), axis)
            cost += went.reshape(went.shape + (1,) * (gates - axes)) / n
    mesh = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1)
    return mesh.reshape(-1, gates), score.ravel() / n, cost.ravel()


def _grid(row: Floats, most: int) -> Floats:
    """Zero, and values that the confidences take, spread evenly over the examples."""
    values = np.unique(row)
    if len(values) > most:
        values = np.unique(np.quantile(row, np.linspace(0, 1, most), method="nearest"))
    return np.unique(np.concatenate([[0.0], values]))
