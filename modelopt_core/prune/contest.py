"""Criteria against each other: the score of every criterion that applies, at equal ratios, on the same examples.

The network is fixed. A seed decides what `random` draws, and which training examples a criterion that needs data looks
at; criteria that look at weights only have one answer. How another trained network would fare is another question
(`python -m benchmarks.prune` asks it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modelopt_core import channels, identity, turns
from modelopt_core.estimate import Estimate, difference, holm, mcnemar, mean_interval, verdict
from modelopt_core.events import silent
from modelopt_core.measure import PREDICT_THREADS
from modelopt_core.prune.criteria import CRITERIA
from modelopt_core.prune.stats import SUMS, bn_scale
from modelopt_core.prune.step import Prune
from modelopt_core.runtime import compile, predict
from modelopt_core.workload import Outputs, Workload

RATIOS = (0.5, 0.8, 0.2, 0.3, 0.7, 0.6, 0.4, 0.1, 0.9)  # coarse to fine
SEEDS = 5

Scores = NDArray[Any]  # (n,) bool or float32


@dataclass(frozen=True, eq=False)
class Cell:
    """One criterion at one ratio with one seed. scores: (n,) of the examples, bool where they are right or wrong."""

    criterion: str
    ratio: float
    seed: int
    scores: Scores


@dataclass(frozen=True)
class Spread:
    """A criterion's score at one ratio: mean, lowest and highest over its seeds."""

    ratio: float
    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Duel:
    """A criterion against a rival at one ratio. delta: of the score; p: of the paired test; verdict: after Holm."""

    rival: str
    ratio: float
    delta: Estimate
    p: float
    verdict: str  # better, worse, or empty


def entrants(model: nn.Module, workload: Workload, step: Prune) -> list[str]:
    """The criteria that apply to this model and granularity."""
    names = step.choices("criterion", dict(step))
    if step.granularity == "channel":
        found = [g for g in channels.groups(model, workload.example) if not g.frozen]
        if all(bn_scale(model, g) is None for g in found):
            names = [name for name in names if "bn_scale" not in CRITERIA[name]["needs"]]  # type: ignore[operator]
    return names


def drawn(criterion: str) -> bool:
    """Does a seed change what the criterion says? By chance itself, or by the examples that it looks at."""
    entry = CRITERIA[criterion]
    return not entry["equivariant"] or any(need in SUMS for need in entry["needs"])  # type: ignore[attr-defined]


def contest(
    model: nn.Module,
    workload: Workload,
    step: Prune,
    names: Sequence[str],
    *,
    split: str = "val",
    runtime: str = "onnx",
    device: str = "cpu",
) -> Iterator[Cell]:
    """Every criterion at every one of RATIOS, all else as in `step`; then again with the other seeds, where they count.

    The pruned networks are not kept: there are hundreds. Nor are they fine-tuned.
    """
    examples = workload.split(split)
    inputs = examples.inputs
    step = step.changed(rounds=1, recovery="norms") if step.lasts(workload) else step
    for seed in range(SEEDS):
        for ratio in RATIOS:
            for name in names:
                if seed and not drawn(name):
                    continue
                turns.pause()
                setting = step.changed(criterion=name, ratio=ratio)
                with torch.no_grad():
                    generator = torch.Generator().manual_seed(seed)
                    thin = setting.transform(identity.clone(model), workload, generator, silent).eval()
                ready = compile(thin, workload, runtime=runtime, device=device)
                said = Outputs(predict(ready, inputs, threads=PREDICT_THREADS))
                scores = workload.example_scores(said, examples.targets).numpy()
                binary = bool(np.isin(scores, (0.0, 1.0)).all())
                yield Cell(name, ratio, seed, scores.astype(np.bool_ if binary else np.float32))


def length(names: Sequence[str]) -> int:
    """How many cells `contest` yields."""
    return len(RATIOS) * sum(SEEDS if drawn(name) else 1 for name in names)


def spreads(cells: Iterable[Cell]) -> dict[str, list[Spread]]:
    """Criterion -> its points so far, by ratio."""
    found: dict[str, list[Spread]] = {}
    for (name, ratio), scores in sorted(_by_setting(cells).items()):
        means = [float(s.mean()) for s in scores.values()]
        point = Spread(ratio, sum(means) / len(means), min(means), max(means), len(means))
        found.setdefault(name, []).append(point)
    return found


def duels(cells: Iterable[Cell], criterion: str, chance: float = 0.0) -> list[Duel]:
    """The criterion against every rival at every ratio where both were measured and one is clearly above `chance`.

    Both are scored on the same examples: McNemar's exact test where each has one answer an example, else the normal
    test of the mean difference of what an example scores on average over the seeds. Holm's correction over all duels.
    """
    means = {at: np.stack(list(by.values())).mean(axis=0, dtype=np.float64) for at, by in _by_setting(cells).items()}
    alive = {at for at, scores in means.items() if mean_interval(scores).low > chance}
    pairs = [(name, ratio) for name, ratio in sorted(means) if name != criterion and (criterion, ratio) in means]
    pairs = [(name, ratio) for name, ratio in pairs if {(name, ratio), (criterion, ratio)} & alive]
    ps = [_p(means[pair], means[criterion, pair[1]]) for pair in pairs]
    found = []
    for pair, p, clear in zip(pairs, ps, holm(ps), strict=True):
        delta = difference(means[pair], means[criterion, pair[1]])
        found.append(Duel(*pair, delta, p, verdict(p, delta.value) if clear else ""))
    return found


def _by_setting(cells: Iterable[Cell]) -> dict[tuple[str, float], dict[int, Scores]]:
    """(criterion, ratio) -> seed -> (n,) scores."""
    found: dict[tuple[str, float], dict[int, Scores]] = {}
    for cell in cells:
        found.setdefault((cell.criterion, cell.ratio), {})[cell.seed] = cell.scores
    return found


def _p(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Two-sided p of (n,) paired scores."""
    if np.isin((first, second), (0.0, 1.0)).all():
        return mcnemar(first, second).p
    change = second - first
    error = float(change.std(ddof=1)) / math.sqrt(len(change)) if len(change) > 1 else 0.0
    return math.erfc(abs(float(change.mean())) / error / math.sqrt(2)) if error else 1.0
