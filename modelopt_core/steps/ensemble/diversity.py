"""Do the members differ? Models that fail on the same examples cannot help each other, however good each one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.steps.ensemble.rules import RULES, mean
from modelopt_core.tasks import nats
from modelopt_core.workloads.workload import Outputs, Workload


@dataclass(frozen=True, eq=False)
class Diversity:
    """Pairs of members, each (M, M).

    disagreement: share of examples where the answers differ; q: Yule's Q of being right, −1 … 1, low is diverse;
    correlation: Pearson's, of the errors. Where a pair never errs, or always does, the last two are 0.
    """

    disagreement: Tensor
    q: Tensor
    correlation: Tensor


def diversity(answers: Tensor, right: Tensor) -> Diversity:
    """answers (M, N), any labels; right (M, N), 1 where the answer is right, else 0.

    Source: Kuncheva and Whitaker, Measures of Diversity in Classifier Ensembles, Machine Learning 51, 2003.
    """
    n = right.shape[1]
    hit, miss = right.double(), 1 - right.double()
    both, neither, first = hit @ hit.T / n, miss @ miss.T / n, hit @ miss.T / n  # (M, M) shares
    agree, differ = both * neither, first * first.T
    spread = miss.mean(dim=1) * hit.mean(dim=1)  # (M,) variances
    return Diversity(
        (answers[:, None] != answers[None]).double().mean(dim=2),
        _ratio(agree - differ, agree + differ),
        _ratio(agree - differ, (spread[:, None] * spread[None]).sqrt()),
    )


def leave_one_out(said: Tensor, weights: Tensor, rule: str, value: Callable[[Tensor], float]) -> tuple[float, ...]:
    """What each member adds: the value of all minus the value without it, the others' weights scaled up.

    said: log-probabilities (M, N, K); weights: (M,); value: combined (N, K) -> number. The only member, or the only one
    with a weight, adds all there is.
    """
    whole = value(RULES[rule](said, weights))
    added = []
    for m in range(len(said)):
        others = torch.arange(len(said)) != m
        left = weights[others]
        rest = value(RULES[rule](said[others], left / left.sum())) if left.sum() > 0 else 0.0
        added.append(whole - rest)
    return tuple(added)


def shares_added(
    said: Tensor, weights: Sequence[float], rule: str, workload: Workload, targets: Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(score, log loss saved) that each member adds: said (M, N, K), weights (M,), targets (N,)."""
    given = torch.tensor(weights, dtype=said.dtype)

    def score(whole: Tensor) -> float:
        return float(workload.example_scores(Outputs(whole), targets).mean())

    def saved(whole: Tensor) -> float:
        return float(whole.gather(1, targets[:, None]).mean())

    return leave_one_out(said, given, rule, score), leave_one_out(said, given, rule, saved)


def doubtful(said: Tensor, weights: Sequence[float], most: int) -> list[tuple[int, float, float]]:
    """(example, doubt, dispute) of the most disputed, see `uncertainty`: said (M, N, K), weights (M,).

    Of those that are disputed alike the most doubted come first.
    """
    total, between = (each.tolist() for each in uncertainty(said, torch.tensor(weights, dtype=said.dtype)))
    chosen = sorted(range(len(total)), key=lambda i: (-between[i], -total[i]))[:most]
    return [(i, total[i], between[i]) for i in chosen]


def uncertainty(said: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) entropy of the average answer, and (N,) the part of it that is disagreement between members, both in nats.

    said: log-probabilities (M, N, K); weights: (M,). What is left is doubt that the members share.
    Source: Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, arXiv 1710.07283.
    """
    total = nats.entropy(mean(said, weights))  # (N,)
    shared = torch.tensordot(weights, nats.entropy(said), dims=1)
    return total, (total - shared).clamp_min(0)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(1e-300), torch.zeros_like(a))
