"""Sensitivity: what the score loses when one layer alone is pruned, with all that is coupled to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from modelopt_core.machine import cores
from modelopt_core.measuring.measurement import compare
from modelopt_core.steps.prune.channel_units import units
from modelopt_core.steps.prune.prune import Prune
from modelopt_core.tasks.statistics import Estimate
from modelopt_core.workloads.workload import Workload


@dataclass(frozen=True)
class Sensitivity:
    """One layer, or one group of coupled channels. delta: change of the score when it alone loses `ratio`."""

    name: str
    layers: tuple[str, ...]  # that lose weights: more than one where channels are coupled
    ratio: float
    delta: Estimate


def sensitivity(
    model: nn.Module,
    workload: Workload,
    step: Prune,
    *,
    split: str = "val",
    runtime: str = "onnx",
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Sensitivity]:
    """For every layer that can lose something, what the score loses when it alone does; yielded one by one.

    step: how to prune, with the ratio to try; its frozen layers are left out. Each answer is a real
    `Prune` of that layer, coupled layers included, so a plan that is built from these numbers gets what they say. It
    is taken in one shot and before any fine-tuning.
    """
    recovery = "norms" if step.lasts(workload) else step.recovery
    for unit in units(model, workload.example, step.granularity):
        if unit.stays or {unit.name, *unit.layers} & set(step.frozen):
            continue
        cores.pause()
        alone = step.changed(ratio=0.0, ratios=((unit.name, step.ratio),), scope="layer", rounds=1, recovery=recovery)
        pruned = alone.apply(model, workload, seed=seed)
        delta = compare(model, pruned, workload, split, runtime=runtime, device=device).delta
        yield Sensitivity(unit.name, unit.layers, step.ratio, delta)
