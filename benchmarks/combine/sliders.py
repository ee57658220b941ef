"""L5: what the sliders' arithmetic on kept predictions costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import modelopt_core as mo
from benchmarks.combine.members import pool
from modelopt_core.measuring.measurement import stacked
from modelopt_core.steps.cascade import flow
from modelopt_core.steps.distill import soften
from modelopt_core.tasks.calibration import fit_temperature, tempered
from modelopt_core.workloads.workload import Workload

REPEATS = 50


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield "## The sliders' arithmetic\n"
    yield from arithmetic(mo.workload("mnist"), pool())


def milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> NDArray[np.float64]:
    """CPU time of one call on this one thread, after a first one that does not count. Nobody else's work is in it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return np.array(times) * 1e3


def told(times: NDArray[np.float64]) -> str:
    """Median and 95th percentile."""
    return f"{np.median(times):.2f} / {np.percentile(times, 95):.2f} ms"


def arithmetic(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """L5: what a slider costs on kept predictions."""
    said, truth = stacked(pool, w), w.val.targets
    given = torch.full((len(pool),), 1 / len(pool))
    sure, right = said.amax(2).exp(), (said.argmax(2) == truth).float()
    calls: dict[str, Callable[[], object]] = {
        **{f"rule {name}": lambda rule=rule: rule(said, given) for name, rule in mo.RULES.items()},
        "cascade, thresholds": lambda: flow(sure, right, (0.9,) * (len(pool) - 1)),
        "temperature, applied": lambda: tempered(said[0], 1.5),
        "temperature, what students of each would see": lambda: [soften(one, truth, 4.0) for one in said],
        "temperature, fitted": lambda: fit_temperature(said[0], truth),
    }
    yield f"| slider, {len(pool)} × {len(truth):,} | median / p95 | bar |\n|---|--:|--:|"
    for name, call in calls.items():
        yield f"| {name} | {told(milliseconds(call))} | {'' if 'fitted' in name else '5 ms'} |"
