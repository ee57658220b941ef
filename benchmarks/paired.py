"""Two models on the same examples: who is right where the other is wrong, and whether that can be chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from modelopt_core.estimate import mcnemar
from modelopt_core.train import EVALUATION_BATCH
from modelopt_core.workload import Workload


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
