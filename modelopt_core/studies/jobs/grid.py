"""A response curve that lasts: one job that tries every value of a knob with every seed, coarse to fine.

Each point is told as it comes, so a curve grows while it is measured, and a job that was stopped goes on with the
first point that it lacks. The models of the first seed stay as files: a setting on the curve is then at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.machine.events import Report
    from modelopt_core.measuring.measurement import Measurement
    from modelopt_core.steps.base import Transform
    from modelopt_core.workloads.workload import Workload

MOST = 10_000  # points of one job


class Grid(BaseModel):
    """Which knob of the job's one step, its values and the seeds; every value with the first seed, then the next.

    known: (value, seed) that were measured elsewhere and are passed over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    values: tuple[float, ...] = Field(min_length=1, max_length=1000)
    seeds: tuple[int, ...] = Field((0,), min_length=1, max_length=100)
    known: tuple[tuple[float, int], ...] = Field((), max_length=MOST)

    @property
    def places(self) -> list[tuple[float, int]]:
        """(value, seed) in the order in which they are measured."""
        known = set(self.known)
        every = ((value, seed) for seed in dict.fromkeys(self.seeds) for value in dict.fromkeys(self.values))
        return [place for place in every if place not in known]


@dataclass(frozen=True, eq=False)
class Swept:
    """One measured place of a grid, as it is reported; model: the result, with its key."""

    value: float
    seed: int
    measurement: Measurement
    model: nn.Module


def setting(step: Transform, field: str, value: float) -> Transform:
    """The step with this value of the knob."""
    whole = type(step).model_fields[field].annotation is int
    return step.changed(**{field: int(value) if whole else value})


def sweep(
    step: Transform,
    grid: Grid,
    model: nn.Module,
    workload: Workload,
    report: Report,
    *,
    skip: Iterable[tuple[float, int]] = (),
    split: str = "val",
    runtime: str = "onnx",
) -> None:
    """Apply, measure and report every place of the grid that is not in `skip`."""
    from modelopt_core.measuring.measurement import measure

    done = set(skip)
    for value, seed in grid.places:
        if (value, seed) in done:
            continue
        small = setting(step, grid.field, value).apply(model, workload, seed=seed, report=report)
        report(Swept(value, seed, measure(small, workload, split, runtime=runtime, baseline=model), small))


def over_seeds(measurements: Sequence[Measurement]) -> Measurement:
    """One measurement for several trainings that differ by their seed only; a single one stays as it is.

    score: the mean, between the worst and the best seed; n counts seeds. Sizes and times: those of the median score.
    """
    from modelopt_core.tasks.statistics import Estimate

    if len(measurements) == 1:
        return measurements[0]
    scores = [m.score.value for m in measurements]
    middle = sorted(measurements, key=lambda m: m.score.value)[len(scores) // 2]
    mean = min(max(scores), max(min(scores), sum(scores) / len(scores)))
    return replace(middle, score=Estimate(mean, min(scores), max(scores), len(scores), middle.score.how))
