"""Latency, honestly: one thread, candidate and baseline in turn, median and quartiles, and nobody else at work.

Two stopwatches started one after the other measure the weather. Interleaved, both see the same machine, and the ratio
holds even where the milliseconds drift.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modelopt_core.machine import cores
from modelopt_core.tasks.statistics import Estimate, median_quartiles

WARMUP = 3  # calls before the first that counts: caches, allocations
REPEATS = 25  # pairs at most; quartiles need a couple of dozen
BUDGET_S = 0.12  # stop earlier when a slow model has used this much, but not before MINIMUM pairs
MINIMUM = 7
DRIFT = 0.2  # a baseline that moved by more than this share makes the milliseconds `noisy`


@dataclass(frozen=True)
class Timing:
    """latency_ms: of the candidate; baseline_ms: of the baseline in the same seconds; speedup: baseline / candidate."""

    latency_ms: Estimate
    baseline_ms: Estimate
    speedup: Estimate
    noisy: bool


def interleave(
    candidate: Callable[[], object],
    baseline: Callable[[], object],
    expected_ms: float | None = None,
    repeats: int = REPEATS,
    budget_s: float = BUDGET_S,
) -> Timing:
    """Time two callables in turn. expected_ms: what the baseline took when it was first timed, to notice drift."""
    with cores.stopwatch() as alone:
        for _ in range(WARMUP):
            candidate(), baseline()
        pairs: list[tuple[float, float]] = []
        start = time.perf_counter()
        while len(pairs) < repeats and (len(pairs) < MINIMUM or time.perf_counter() - start < budget_s):
            pairs.append((_seconds(candidate), _seconds(baseline)))
    times = np.asarray(pairs) * 1e3  # (n, 2) milliseconds
    latency, reference = median_quartiles(times[:, 0]), median_quartiles(times[:, 1])
    speedup = median_quartiles(times[:, 1] / times[:, 0])
    drifted = expected_ms is not None and abs(reference.value / expected_ms - 1) > DRIFT
    return Timing(latency, reference, speedup, drifted or not alone)


def weighted(timings: Sequence[Timing], shares: Sequence[float]) -> Timing:
    """The mean of several paths through one model, each timed by itself. shares: of the examples; they sum to 1."""

    def mean(of: Callable[[Timing], Estimate], power: int = 1) -> Estimate:
        found = [of(timing) for timing in timings]
        low, value, high = (
            sum(s * getattr(e, at) ** power for s, e in zip(shares, found, strict=True)) ** power
            for at in ("low", "value", "high")
        )
        return Estimate(value, low, high, sum(e.n for e in found))

    return Timing(
        mean(lambda t: t.latency_ms),
        mean(lambda t: t.baseline_ms),
        mean(lambda t: t.speedup, power=-1),  # times add up, not their inverses
        any(timing.noisy for timing in timings),
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
