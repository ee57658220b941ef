"""Results of steps that last: had only where a job or the project has made them, never made while a page is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.base import Combine, Step, Transform
from modelopt_core.studies import jobs, shipped_curves
from modelopt_core.workloads.workload import Workload
from pages.state import owner


def has(models: Sequence[nn.Module], workload: Workload, step: Step, seed: int = 0) -> bool:
    """Is the result of a step that lasts kept in memory, in the folder of one of this browser's jobs, or shipped?"""
    key = step.lasting.key(models, workload, seed)
    return jobs.recall(key, owner.token()) or shipped_curves.recall(key)


def apply(step: Step, models: Sequence[nn.Module], workload: Workload) -> nn.Module:
    """`step.apply`, but what lasts and is not kept is refused: no page trains while it is drawn."""
    if step.lasts(workload) and not has(models, workload, step):
        raise ModelOptError(f"{step.name} is not measured with this setting; run it on its page first")
    if isinstance(step, Transform):
        return step.apply(models[0], workload)
    assert isinstance(step, Combine)
    return step.apply(models, workload)
