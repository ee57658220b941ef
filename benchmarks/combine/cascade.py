"""A cascade against its largest model: errors, multiply–accumulates and time per image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as distributions
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.checkpoints import kept
from modelopt_core.machine import cores
from modelopt_core.machine.digest import digest
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import identity
from modelopt_core.steps.cascade import Choice, Flow, best_thresholds, flow
from modelopt_core.structure.layer_table import macs
from modelopt_core.workloads.workload import Workload

STAGES = ("mlp30", "lenet300", "mlp1200")
CONFIDENCE = "max_prob"
IMAGES, CHUNK = 10_000, 200  # in a turn of 50 the caches that the other model left behind count for too much
ONE_SIDED = 1.6448536269514722  # the standard normal's 95 % point
MORE = 10  # errors that a cascade may make more: the bar
# On n images one of the two is right and the other wrong: the bound is 1.645·√n above what the cascade makes more.
# Where they are equally good in truth, it stays below MORE nine times in ten if (1.645 + 1.282)·√n ≤ MORE.
CHANGES = int((MORE / (ONE_SIDED + 1.2815515655446004)) ** 2)
# What was chosen as small on val is larger elsewhere: so few that the 95 % limit of their true number is CHANGES.
FEW = max(n for n in range(CHANGES) if distributions.chi2.ppf(0.95, 2 * (n + 1)) / 2 <= CHANGES)
LEARN = {"mlp30": {"epochs": 60, "lr": 3e-3}, "lenet300": {"epochs": 30, "lr": 1e-3}}


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        f"## Cascade {' → '.join(STAGES)}, batch 1\n\nThe first two stages as shipped, or learned from the third "
        "(`Distill`). Thresholds are the cheapest, in measured time, at which the cascade scores on val as the large "
        f"model (score), or at which at most {CHANGES}, or {FEW}, val images are right with one and wrong with the "
        f"other. Two equal models that differ on {CHANGES} images meet the bar nine times in ten; {FEW} on val is the "
        f"most whose 95 % limit is {CHANGES}. Bound: one-sided 95 % limit of the errors that it makes more on test "
        f"(bar: {MORE}). Ratios are of the large model alone: median (quartiles) of turns of {CHUNK} test images; "
        "ceiling: if the first stage answered everything, CPU time. Everything in ONNX Runtime, one thread.\n"
    )
    heads = ("stages", "rule", "thresholds", "leave at", "errors, stages alone", "errors, cascade", "bound", "MACs ×",
             "wall clock ×", "CPU time ×", "ceiling ×")  # fmt: skip
    yield f"| {' | '.join(heads)} |\n|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
    w = mo.workload("mnist")
    for name, pool in pools(w):
        for changes in (None, CHANGES, FEW):
            rule = "score" if changes is None else f"≤ {changes} changes"
            yield f"| {name} | {rule} | {' | '.join(cascade(w, pool, changes))} |"


def pools(w: Workload) -> Iterator[tuple[str, list[nn.Module]]]:
    """Name, and the three stages: as shipped, learned from the third, those at 8 bits."""
    shipped = [mo.baseline("mnist", name) for name in STAGES]
    yield "shipped", shipped
    learned = []
    for name in STAGES[:-1]:
        step = mo.Distill(student=name, width=1, batch_size=128, **LEARN[name])  # type: ignore[arg-type]
        key = digest(step, identity.key(shipped[-1]), w.data_hash, torch.__version__)[:16]
        learned.append(kept(f"learned-{name}-{key}", mo.baseline("mnist", name), partial(step.apply, shipped[-1], w)))
    yield "distilled", [*learned, shipped[-1]]
    yield "distilled, 8 bits", [mo.Quantize(bits=8).apply(model, w) for model in (*learned, shipped[-1])]


def cascade(w: Workload, pool: Sequence[nn.Module], changes: int | None) -> list[str]:
    """The cells of a row: the cascade against its largest model."""
    step, ones = mo.Cascade(confidence=CONFIDENCE), (1.0,) * len(pool)
    sure = {split: step.sure(stacked(pool, w, split), ones) for split in ("val", "test")}
    right = {s: torch.stack([mo.predictions(m, w, s).scores for m in pool]) for s in ("val", "test")}
    seconds = [mo.measure(model, w).latency_ms.value for model in pool]
    if changes is not None:
        same = (right["val"] == right["val"][-1]).float()
        chosen = best_thresholds(sure["val"], same, seconds, score=1 - changes / same.shape[1])
    else:
        chosen = best_thresholds(sure["val"], right["val"], seconds, score=float(right["val"][-1].mean()))
    happened = flow(sure["test"], right["test"], chosen.thresholds)
    whole = mo.Cascade(confidence=CONFIDENCE, thresholds=chosen.thresholds).apply(pool, w)
    fast, slow, first = (mo.compile(model, w) for model in (whole, pool[-1], pool[0]))
    (wall, cpu), (_, ceiling) = ratios(slow, fast, w), ratios(slow, first, w)
    costs = [float(macs(model, w.example)) for model in pool]
    return [
        *outcome(chosen, happened, right["test"]),
        f"{costs[-1] / happened.cost(costs):.1f}",
        *spread(wall, cpu, ceiling),
    ]


def outcome(chosen: Choice, happened: Flow, right: Tensor, against: Tensor | None = None) -> list[str]:
    """Cells: thresholds, where examples leave, errors of each stage alone, errors, bound.

    right: (S, N), the large model last; against: (N,), what is compared with if not with that.
    """
    change = ((right[-1] if against is None else against) - happened.scores).double().numpy()  # 1: lost, −1: won
    more = change.sum()
    bound = more + ONE_SIDED * change.std(ddof=1) * np.sqrt(len(change))
    return [
        ", ".join(f"{t:.4f}" for t in chosen.thresholds),
        " / ".join(f"{n / len(change):.1%}" for n in happened.left),
        " / ".join(str(int(len(change) - scores.sum())) for scores in right),
        f"{int(len(change) - happened.scores.sum())} ({more:+.0f})",
        f"{bound:+.1f}",
    ]


def spread(*found: NDArray[np.float64]) -> list[str]:
    """Median (quartiles) of each."""
    return ["{1:.2f} ({0:.2f} – {2:.2f})".format(*np.percentile(one, [25, 50, 75])) for one in found]


def ratios(
    slow: Callable[[Tensor], Tensor], fast: Callable[[Tensor], Tensor], w: Workload
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slow over fast, one test image at a time, in turns of CHUNK images each: wall clock, and CPU time."""
    images = w.test.inputs[:IMAGES].split(1)

    def seconds(call: Callable[[Tensor], Tensor], part: Sequence[Tensor]) -> NDArray[np.float64]:
        start = np.array([time.perf_counter(), time.thread_time()])
        for one in part:
            call(one)
        return np.array([time.perf_counter(), time.thread_time()]) - start

    found = []
    with cores.stopwatch():
        for at in range(0, len(images), CHUNK):
            part = images[at : at + CHUNK]
            found.append(seconds(slow, part) / seconds(fast, part))
    wall, cpu = np.array(found).T
    return wall, cpu
