"""What the teacher was worth: the student with it, the same student without it, and the teacher itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Progress, Report, silent
from modelopt_core.measuring.measurement import predictions
from modelopt_core.steps.distill.distill import Distill
from modelopt_core.tasks.statistics import Estimate
from modelopt_core.workloads.workload import Workload

RESAMPLES = 1000
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """Scores on the same examples. alone, distilled: one per seed; gain: of the mean over the seeds.

    share: gain / (teacher − alone), how much of the gap is closed; None where the teacher is not clearly better than
    the student alone, so that there is nothing to close.
    """

    teacher: float
    alone: tuple[float, ...]
    distilled: tuple[float, ...]
    gain: Estimate
    share: Estimate | None


def gap(
    step: Distill,
    teacher: nn.Module,
    workload: Workload,
    *,
    seeds: int = 3,
    split: str = "val",
    runtime: str = "onnx",
    report: Report = silent,
) -> Gap:
    """Train the student with and without its teacher from each of the seeds 0, 1, …, and compare.

    Both students have the same first weights, order and budget. Students that were trained before are not trained
    again. See `closed` for the intervals.
    """
    if seeds < 1:
        raise ModelOptError(f"seeds={seeds} is not allowed; choose 1 or more")
    rows: list[list[Scores]] = [[], []]
    for seed in range(seeds):
        for at, each in enumerate((step.alone, step)):
            student = each.apply(teacher, workload, seed=seed, report=report)
            rows[at].append(predictions(student, workload, split, runtime=runtime).scores.double().numpy())
            report(Progress("gap", 2 * seed + at + 1, 2 * seeds))
    known = predictions(teacher, workload, split, runtime=runtime).scores.double().numpy()
    return closed(known, np.stack(rows[0]), np.stack(rows[1]))


def closed(teacher: Scores, alone: Scores, distilled: Scores, resamples: int = RESAMPLES, seed: int = 0) -> Gap:
    """The gap from scores in [0, 1] per example: teacher (N,), alone and distilled (S, N), row by row of one seed.

    Intervals by the pigeonhole bootstrap: examples and seeds are drawn anew, each with replacement and independently,
    and every resample keeps all pairs of a drawn seed with a drawn example; the middle 95 % of 1,000. One seed says
    nothing about the spread over seeds: the interval is over examples then; with less than five it is too narrow.

    Source: A. B. Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1, 2007, arXiv 0712.1111.
    """
    if alone.shape != distilled.shape or alone.shape[1:] != teacher.shape or not alone.size:
        raise ModelOptError(
            f"scores must be (N,) and twice (S, N); got {teacher.shape}, {alone.shape} and {distilled.shape}"
        )
    s, n = alone.shape
    columns, counts = np.unique(np.vstack([teacher, alone, distilled]).T, axis=0, return_counts=True)
    draw = np.random.default_rng(seed)
    examples = draw.multinomial(n, counts / n, size=resamples) @ columns / n  # (R, 1 + 2S): each model's mean
    drawn = draw.multinomial(s, np.full(s, 1 / s), size=resamples) / s  # (R, S): how often each seed
    without, with_it = (drawn * examples[:, 1 : s + 1]).sum(axis=1), (drawn * examples[:, s + 1 :]).sum(axis=1)
    base, top = float(alone.mean()), float(teacher.mean())
    gain = _between(float(distilled.mean()) - base, with_it - without, n)
    share, room = None, examples[:, 0] - without
    if top > base and np.mean(room > 0) >= 0.975:
        ratios = (with_it - without)[room > 0] / room[room > 0]
        share = _between(gain.value / (top - base), ratios, n)
    first, second = (tuple(map(float, rows.mean(axis=1))) for rows in (alone, distilled))
    return Gap(top, first, second, gain, share)


def _between(value: float, resampled: Scores, n: int) -> Estimate:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(value, min(value, float(low)), max(value, float(high)), n)
