"""A cascade against its largest model: errors, multiply–accumulates and time per image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import modelopt_core as mo
from modelopt_core import turns
from modelopt_core.cascade import best_thresholds, flow, front
from modelopt_core.layers import macs
from modelopt_core.measure import stacked
from modelopt_core.workload import Workload

STAGES = ("mlp30", "lenet300", "mlp1200")
IMAGES, CHUNK = 2_000, 50
ONE_SIDED = 1.6448536269514722  # the standard normal's 95 % point


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        f"## Cascade {' → '.join(STAGES)}, batch 1\n\nThresholds on the margin, the cheapest of those that score on "
        "val as the large model, or best. Bound: one-sided 95 % limit of the errors that it makes more (bar: 10). "
        f"Ratios are of the large model alone: median (quartiles) of turns of {CHUNK} test images; ceiling: if the "
        "first stage answered everything, CPU time. ONNX Runtime, one thread. Where other programs run, the CPU time "
        "tells what the wall clock of an idle machine would.\n"
    )
    heads = ("weights, score on val", "thresholds", "leave at", "errors, large", "errors, cascade", "bound", "MACs ×",
             "wall clock ×", "CPU time ×", "ceiling ×")  # fmt: skip
    yield f"| {' | '.join(heads)} |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
    w = mo.workload("mnist")
    for bits, cautious in product((None, 8), (False, True)):
        yield from cascade(w, bits, cautious)


def cascade(w: Workload, bits: int | None, cautious: bool) -> Iterator[str]:
    """A row: the cascade against its largest model.

    Its thresholds are the cheapest that score as that model on val; cautious, the cheapest of those that score best.
    """
    pool = [mo.baseline("mnist", name) for name in STAGES]
    if bits:
        pool = [mo.Quantize(bits=bits).apply(model, w) for model in pool]
    step, costs = mo.Cascade(confidence="margin"), [float(macs(model, w.example)) for model in pool]
    ones = (1.0,) * len(pool)
    sure = {split: step.sure(stacked(pool, w, split), ones) for split in ("val", "test")}
    right = {s: torch.stack([mo.predictions(m, w, s).scores for m in pool]) for s in ("val", "test")}
    goal = front(sure["val"], right["val"], costs)[-1].score if cautious else float(right["val"][-1].mean())
    chosen = best_thresholds(sure["val"], right["val"], costs, score=goal)
    happened = flow(sure["test"], right["test"], chosen.thresholds)
    change = (right["test"][-1] - happened.scores).double().numpy()  # 1: lost, −1: won
    more = change.sum()
    bound = more + ONE_SIDED * change.std(ddof=1) * np.sqrt(len(change))
    whole = mo.Cascade(confidence="margin", thresholds=chosen.thresholds).apply(pool, w)
    fast, slow, first = mo.compile(whole, w), mo.compile(pool[-1], w), mo.compile(whole.members[0], w)  # type: ignore[index]
    (wall, cpu), (_, ceiling) = ratios(slow, fast, w), ratios(slow, first, w)
    kind = f"{bits} bits" if bits else "float32"
    left = " / ".join(f"{n / len(change):.1%}" for n in happened.left)
    lost = [int(len(change) - scores.sum()) for scores in (right["test"][-1], happened.scores)]
    cells = [
        f"{kind}, {'best' if cautious else 'as the large model'}",
        ", ".join(f"{t:.4f}" for t in chosen.thresholds),
        left,
        *map(str, lost),
        f"{bound:+.1f}",
        f"{costs[-1] / happened.cost(costs):.1f}",
        *("{1:.2f} ({0:.2f} – {2:.2f})".format(*np.percentile(found, [25, 50, 75])) for found in (wall, cpu, ceiling)),
    ]
    yield f"| {' | '.join(cells)} |"


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
    with turns.stopwatch():
        for at in range(0, len(images), CHUNK):
            part = images[at : at + CHUNK]
            found.append(seconds(slow, part) / seconds(fast, part))
    wall, cpu = np.array(found).T
    return wall, cpu
