"""The valley between networks that were trained apart, and the way out: shipped seeds, on test."""

from __future__ import annotations

from collections.abc import Iterator

import modelopt_core as mo
from modelopt_core.steps.fuse import ROUTES, barrier, routes

PAIRS = (
    *(("mnist", "lenet300", f"lenet300-{seed}") for seed in (1, 2, 3, 4)),
    ("digits", "cnn", "cnn-2"),
    ("docstrings", "bag", "bag-1"),
)
POINTS = 11


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        f"## The straight line between two seeds, {POINTS} places, on test\n\nBarrier: how far the log loss rises "
        "above the straight line between both ends, in nats. Nothing here is chosen.\n"
    )
    yield "| networks | way | barrier | score at the ends | in the middle | lowest |\n|---|---|--:|--:|--:|--:|"
    for workload, *names in PAIRS:
        w = mo.workload(workload)
        walked = list(routes(*(mo.baseline(workload, name) for name in names), w, points=POINTS, split="test"))
        for way in ROUTES:
            if spots := [spot for route, spot in walked if route == way]:
                scores = [spot.score for spot in spots]
                yield (
                    f"| {workload}: {names[0]}, {names[1]} | {way} | {barrier(spots):.3f} | {scores[0]:.2%}, "
                    f"{scores[-1]:.2%} | {scores[POINTS // 2]:.2%} | {min(scores):.2%} |"
                )
