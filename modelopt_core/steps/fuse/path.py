"""The straight line from one network to another: between two that were trained apart lies a hill of loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.steps.fuse.merge import aligned, alike, merged
from modelopt_core.steps.fuse.merges import MERGES
from modelopt_core.training.loop import evaluate
from modelopt_core.training.norms import norms_of, reestimate_norms
from modelopt_core.workloads.workload import Workload

ROUTES = ("as they are", "aligned", "aligned, norms re-estimated")


@dataclass(frozen=True)
class Spot:
    """A place on the line: t = 0 is the first network, 1 the second; loss in the workload's own unit."""

    t: float
    score: float
    loss: float


def path(
    first: nn.Module, second: nn.Module, workload: Workload, *, points: int = 11, norms: bool = True, split: str = "val"
) -> Iterator[Spot]:
    """Score and loss of (1 − t) first + t second at evenly spaced t. norms: re-estimate batch norms at each.

    Source: Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, arXiv 1912.05671; norms: Jordan
    et al., REPAIR: REnormalizing Permuted Activations for Interpolation Repair, arXiv 2211.08403.
    """
    if points < 2:
        raise ModelOptError(f"points={points} is not allowed; a line has 2 ends, so choose 2 points or more")
    for i in range(points):
        cores.pause()
        t = i / (points - 1)
        between = merged([first, second], (1 - t, t), MERGES["average"])
        if norms and 0 < t < 1:
            between = reestimate_norms(between, workload)
        yield Spot(t, *evaluate(between, workload, workload.split(split)))


def barrier(spots: Sequence[Spot]) -> float:
    """How high the loss rises above the straight line between the losses of both ends; 0 where it never does."""
    first, last = spots[0].loss, spots[-1].loss
    return max(spot.loss - (1 - spot.t) * first - spot.t * last for spot in spots)


def routes(
    first: nn.Module, second: nn.Module, workload: Workload, *, points: int = 11, split: str = "val"
) -> Iterator[tuple[str, Spot]]:
    """(route, spot) along the ways between two networks, side by side: see `ROUTES`; the last only with batch norms."""
    alike([first, second])
    moved = aligned(second, first, workload)
    ways = [(first, second, False), (first, moved, False), (first, moved, True)][: 3 if norms_of(first) else 2]
    lines = [path(a, b, workload, points=points, norms=norms, split=split) for a, b, norms in ways]
    for spots in zip(*lines, strict=True):
        yield from zip(ROUTES, spots, strict=False)
