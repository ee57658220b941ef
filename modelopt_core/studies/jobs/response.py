"""What finished and running jobs know of a step's response to one of its knobs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from modelopt_core.errors import ModelOptError
from modelopt_core.studies.jobs.grid import over_seeds
from modelopt_core.studies.jobs.plan import Plan, recipe

if TYPE_CHECKING:
    from modelopt_core.measuring.measurement import Measurement
    from modelopt_core.steps.base import Transform
    from modelopt_core.steps.recipe import Point
    from modelopt_core.studies.jobs.job import Job


def response(jobs: Iterable[Job], step: Transform, field: str) -> list[Point]:
    """What these jobs, the latest first, know of the response of `step` to one of its knobs: a point a value.

    Sweeps of the knob count, and jobs of the one step alone. Several seeds make one point, see `over_seeds`.
    """
    from modelopt_core.steps.recipe import Point

    found: dict[float, dict[int, Measurement]] = {}
    for job in jobs:
        with suppress(ModelOptError):  # damaged since
            for value, seed, measurement in job.measured(field) if anchored(job.plan, step, field) else ():
                found.setdefault(value, {}).setdefault(seed, measurement)
    return [Point(value, over_seeds([seeds[s] for s in sorted(seeds)])) for value, seeds in found.items()]


def anchored(plan: Plan, step: Transform, field: str) -> bool:
    """Does the plan measure this step, all else but the knob being equal?"""
    if plan.grid is not None and plan.grid.field != field:
        return False
    return _without(plan.recipe, field) == _without(recipe((step,)), field)


def _without(recipe: dict[str, Any], field: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in step.items() if name != field} for step in recipe["steps"]]
