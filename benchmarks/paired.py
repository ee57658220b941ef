"""Two models on the same examples: who is right where the other is wrong, and whether that can be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats as distributions
from torch import Tensor, nn

from modelopt_core.tasks.statistics import mcnemar
from modelopt_core.training.loop import EVALUATION_BATCH
from modelopt_core.workloads.workload import Workload


@dataclass(frozen=True)
class Pair:
    """Examples `won` (wrong before, right after) and `lost`, of n; pairs of several seeds add up."""

    won: int
    lost: int
    n: int

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.won + other.won, self.lost + other.lost, self.n + other.n)

    @property
    def delta(self) -> float:
        """Change of the score in percentage points."""
        return 100 * (self.won - self.lost) / self.n

    @property
    def p(self) -> float:
        """McNemar's exact two-sided p."""
        before = np.repeat([0.0, 1.0, 1.0], [self.won, self.lost, 1])
        return mcnemar(before, np.repeat([1.0, 0.0, 1.0], [self.won, self.lost, 1])).p


@dataclass(frozen=True)
class Crossed:
    """Two ways to treat each of S checkpoints, all answering the same n examples: what is said is of the ways.

    won, lost: (S,) examples of each checkpoint that only the second way, or only the first, gets right; common: Σ over
    the examples of (won − lost over all checkpoints)².
    """

    won: tuple[int, ...]
    lost: tuple[int, ...]
    common: int
    n: int

    @classmethod
    def of(cls, changes: Sequence[Tensor]) -> Crossed:
        """changes: for each checkpoint (n,) of −1, 0 and 1: the second way's answers minus the first's."""
        table = torch.stack(list(changes)).long()  # (S, n)
        won, lost = ((table == sign).sum(1).tolist() for sign in (1, -1))
        return cls(tuple(won), tuple(lost), int(table.sum(0).square().sum()), table.shape[1])

    @property
    def pair(self) -> Pair:
        """All answers pooled, as if these checkpoints were the only ones."""
        return Pair(sum(self.won), sum(self.lost), self.n * len(self.won))

    @property
    def interval(self) -> tuple[float, float]:
        """Mean difference in percentage points, and the half width of its 95 % interval."""
        seeds = len(self.won)
        half = distributions.t.ppf(0.975, seeds - 1) * self._error if seeds > 1 else math.inf
        return self.pair.delta, 100 * half

    @property
    def p(self) -> float:
        """Two-sided p of no difference, checkpoints and examples both being samples of many more.

        Source: Cameron et al., Robust inference with multiway clustering, J. Bus. Econ. Stat. 29, 2011; t with S − 1
        degrees of freedom, and never less than what the checkpoints alone differ by.
        """
        if len(self.won) < 2 or not self.pair.delta:
            return 1.0
        t = self.pair.delta / 100 / self._error if self._error else math.inf
        return float(2 * distributions.t.sf(abs(t), len(self.won) - 1))

    @property
    def _error(self) -> float:
        """Standard error of the mean difference: clustered by checkpoint and by example."""
        seeds, size = len(self.won), len(self.won) * self.n
        net = np.subtract(self.won, self.lost)
        mean = net.sum() / size
        by_seed = seeds / (seeds - 1) * np.square(net - self.n * mean).sum()
        by_example = self.n / (self.n - 1) * (self.common - self.n * (seeds * mean) ** 2)
        alone = sum(self.won) + sum(self.lost) - size * mean**2
        return math.sqrt(max(by_seed, by_seed + by_example - alone)) / size


def right(model: nn.Module, workload: Workload, split: str = "test") -> Tensor:
    """(n,) bool: which examples the model answers rightly."""
    with torch.inference_mode():
        batches = workload.split(split).batches(EVALUATION_BATCH)
        return torch.cat([workload.example_scores(workload.forward(model, x), y) for x, y in batches]) > 0.5


def pair(before: Tensor, after: Tensor) -> Pair:
    """(n,) bool answers of two models on the same examples."""
    return Pair(int((after & ~before).sum()), int((before & ~after).sum()), len(before))


def told(p: float) -> str:
    """A p-value in a table."""
    return f"{p:.2g}" if p > 1e-99 else "< 1e-99"
