"""Solved weights against equal and greedy ones: five seeds of 300-100 on MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss as sklearn_log_loss
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.combine.members import pool
from benchmarks.combine.sliders import milliseconds, told
from modelopt_core.measuring.measurement import stacked
from modelopt_core.steps.ensemble import best_weights, diversity, greedy_weights
from modelopt_core.tasks.statistics import Z
from modelopt_core.workloads.workload import Workload


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield "## Weights: five seeds of 300-100 on MNIST\n"
    yield from weights(mo.workload("mnist"), pool())


def likely(said: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """(M, N): the probability that each member gave the truth."""
    return said.gather(2, targets[None, :, None].expand(len(said), -1, 1))[:, :, 0].double().exp().numpy()


def independent_greedy(p: NDArray[np.float64], rounds: int = 50) -> NDArray[np.float64]:
    """Caruana's selection written again, from the paper, without our code: p (M, N) -> weights (M,)."""
    bag: list[int] = []
    best: tuple[float, list[int]] = (np.inf, [])
    for _ in range(rounds):
        losses = [-np.log(p[[*bag, m]].mean(0)).mean() for m in range(len(p))]
        bag.append(int(np.argmin(losses)))
        best = min(best, (min(losses), list(bag)), key=lambda pair: pair[0])
    return np.bincount(best[1], minlength=len(p)) / len(best[1])


def weights(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """Solved weights against equal and greedy ones: val chooses, test judges, scikit-learn computes the losses."""
    said = {split: stacked(pool, w, split) for split in ("val", "test")}
    truth = {split: w.split(split).targets for split in ("val", "test")}
    solved, ours = best_weights(said["val"], truth["val"]), greedy_weights(said["val"], truth["val"])
    rows = {
        "solved": np.array(solved.weights),
        "equal": np.full(len(pool), 1 / len(pool)),
        "greedy, written again": independent_greedy(likely(said["val"], truth["val"])),
        "greedy, ours": np.array(ours.weights),
    }
    yield "| weights | log loss on val | on test | test, minus solved | errors on test |\n|---|--:|--:|--:|--:|"
    losses = {name: -np.log(given @ likely(said["test"], truth["test"])) for name, given in rows.items()}
    for name, given in rows.items():
        mixed = {s: np.einsum("m,mnk->nk", given, said[s].double().exp().numpy()) for s in said}
        val, test = (sklearn_log_loss(truth[s].numpy(), mixed[s] / mixed[s].sum(1, keepdims=True)) for s in said)
        extra = losses[name] - losses["solved"]
        half = Z * extra.std(ddof=1) / np.sqrt(len(extra))
        errors = int((mixed["test"].argmax(1) != truth["test"].numpy()).sum())
        yield f"| {name} | {val:.6f} | {test:.6f} | {extra.mean():+.6f} ± {half:.6f} | {errors} |"
    times = milliseconds(lambda: best_weights(said["val"], truth["val"]))
    yield (
        f"\nOptimality gap of the solved weights: {solved.gap:.1e} nats. Solved for {len(pool)} members × "
        f"{len(truth['val']):,} examples in {told(times)} (median / p95; bar: 50 ms)."
    )
    found = diversity(said["test"].argmax(2), (said["test"].argmax(2) == truth["test"]).int())
    off = ~torch.eye(len(pool), dtype=torch.bool)
    yield (
        f"Diversity on test, mean of pairs: disagreement {found.disagreement[off].mean():.4f}, "
        f"Q {found.q[off].mean():.3f}, error correlation {found.correlation[off].mean():.3f}."
    )
