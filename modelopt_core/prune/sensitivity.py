"""Sensitivity: what the score loses when one layer alone is pruned, with all that is coupled to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from modelopt_core import channels, turns
from modelopt_core.estimate import Estimate
from modelopt_core.layers import WEIGHTED
from modelopt_core.measure import compare
from modelopt_core.prune.step import Prune
from modelopt_core.workload import Workload


@dataclass(frozen=True)
class Sensitivity:
    """One layer, or one group of coupled channels. delta: change of the score when it alone loses `ratio`."""

    name: str
    layers: tuple[str, ...]  # that lose weights: more than one where channels are coupled
    ratio: float
    delta: Estimate


def sensitivity(
    model: nn.Module, workload: Workload, step: Prune, *, split: str = "val", seed: int = 0
) -> Iterator[Sensitivity]:
    """For every layer that can lose something, what the score loses when it alone does; yielded one by one.

    step: how to prune, with the ratio to try; its frozen layers are left out. Each answer is a real
    `Prune` of that layer, coupled layers included, so a plan that is built from these numbers gets what they say. It
    is taken in one shot and before any fine-tuning.
    """
    recovery = "norms" if step.recovery == "fine-tuned" else step.recovery
    for name, layers in _units(model, workload, step):
        turns.pause()
        alone = step.changed(ratio=0.0, ratios=((name, step.ratio),), scope="layer", rounds=1, recovery=recovery)
        pruned = alone.apply(model, workload, seed=seed)
        yield Sensitivity(name, layers, step.ratio, compare(model, pruned, workload, split).delta)


def _units(model: nn.Module, workload: Workload, step: Prune) -> list[tuple[str, tuple[str, ...]]]:
    """(name, layers) of what can be pruned by itself, in the order of the forward pass or of definition."""
    if step.granularity == "channel":
        units = [(g.name, tuple(g.makers)) for g in channels.groups(model, workload.example) if not g.frozen]
    else:
        units = [(name, (name,)) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    return [(name, layers) for name, layers in units if not {name, *layers} & set(step.frozen)]
