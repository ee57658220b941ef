"""Weights that lose least on val: solved where the problem is convex, and picked one by one.

The log loss of `mean` is convex in the weights, so what is found is the best there is; the gap says how far from it a
solution can be at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.ensemble.rules import RULES, TINY
from modelopt_core.workloads.workload import Outputs, Workload

PRECISION, MOST_ITERATIONS = 1e-13, 200  # of the log loss, in nats
NOTHING = 1e-6  # a smaller weight than this is none
ROUNDS = 50  # picks of the greedy selection, hence steps of 2 %


@dataclass(frozen=True)
class Solved:
    """weights: one per member, they sum to 1; loss: mean log loss, nats; gap: the best weights gain at most that."""

    weights: tuple[float, ...]
    loss: float
    gap: float


def best_weights(said: Tensor, targets: Tensor, rule: str = "mean") -> Solved:
    """The weights with the least log loss: log-probabilities (M, N, K), targets (N,) in 0 … K − 1.

    Sequential quadratic programming on the simplex, with exact gradients. ModelOptError for a rule whose loss is not
    convex in the weights.
    Source: Wolpert, Stacked generalization, Neural Networks 5, 1992; Kraft, A software package for sequential quadratic
    programming, DFVLR-FB 88-28, 1988. Gap: Jaggi, Revisiting Frank-Wolfe, ICML 2013.
    """
    from scipy.optimize import minimize

    said, columns = _seen(said, targets, rule)
    m = len(said)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.tensor(weights.clip(0), dtype=said.dtype, requires_grad=True)
        value = -RULES[rule](said, w).gather(1, columns).mean()
        value.backward()
        return value.item(), w.grad.double().numpy()  # type: ignore[union-attr]

    with torch.enable_grad():
        found = minimize(
            loss,
            np.full(m, 1 / m),
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * m,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(m)},
            options={"ftol": PRECISION, "maxiter": MOST_ITERATIONS},
        ).x.clip(0)
        found[found < NOTHING] = 0.0
        weights = found / found.sum()
        value, gradient = loss(weights)
    return Solved(tuple(weights.tolist()), value, max(0.0, float(weights @ gradient - gradient.min())))


def greedy_weights(said: Tensor, targets: Tensor, rounds: int = ROUNDS) -> Solved:
    """Begin with the best member; add, with replacement, whichever member helps the mean most; keep the best moment.

    log-probabilities (M, N, K), targets (N,) in 0 … K − 1. A weight is the share of the picks; gap: as best_weights'.
    Source: Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.
    """
    said, _ = _seen(said, targets, "mean")
    likely = said[:, :, 0].exp()  # (M, N): what each member gave the truth
    total, picked = torch.zeros_like(likely[0]), []
    losses: list[float] = []
    for size in range(1, rounds + 1):
        tried = -((total + likely) / size).clamp_min(TINY).log().mean(dim=1)  # (M,)
        picked.append(int(tried.argmin()))
        losses.append(float(tried.min()))
        total = total + likely[picked[-1]]
    size = int(np.argmin(losses)) + 1
    counts = torch.bincount(torch.tensor(picked[:size]), minlength=len(said)).double()
    mixed = (counts @ likely).clamp_min(TINY) / size
    gap = float((likely / mixed).mean(dim=1).max()) - 1
    return Solved(tuple((counts / size).tolist()), losses[size - 1], max(0.0, gap))


def judged(
    said: Tensor, weights: Sequence[float], rule: str, workload: Workload, targets: Tensor
) -> tuple[float, float]:
    """(log loss in nats, score) of members that said log-probabilities (M, N, K), with weights (M,), under a rule."""
    whole = RULES[rule](said, torch.tensor(weights, dtype=said.dtype))
    return log_loss(whole, targets), float(workload.example_scores(Outputs(whole), targets).mean())


def log_loss(said: Tensor, targets: Tensor) -> float:
    """Mean −log p of the truth, in nats: log-probabilities (N, K), targets (N,)."""
    return float(-said.gather(1, targets[:, None]).mean())


def _seen(said: Tensor, targets: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """What the loss depends on, in double precision: (M, N, K) or (M, N, 1), and the column of the truth (N, 1)."""
    entry = RULES[rule]
    if not entry["convex"]:
        convex = ", ".join(name for name, other in RULES.items() if other["convex"])
        raise ModelOptError(f"the best weights are found for rules with a convex log loss ({convex}), not for {rule}")
    columns = targets[:, None]  # (N, 1)
    if entry["pointwise"]:
        said, columns = said.gather(2, columns.expand(len(said), -1, -1)), torch.zeros_like(columns)
    return said.double(), columns
