"""Is what was simulated what really runs? The same model in PyTorch and in the runtime, on the same examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from modelopt_core.measuring.measurement import predictions
from modelopt_core.runtime.inference import compile
from modelopt_core.tasks.statistics import Estimate, wilson
from modelopt_core.workloads.workload import Workload


@dataclass(frozen=True)
class Agreement:
    """How far PyTorch's floats on the points of a grid and the runtime's own arithmetic say the same.

    share: of the examples with the same answer; largest: difference of two logits, in units of the largest logit;
    runtime: what ran; integer: on integers wherever a weight lies on a grid; reasons: (layer, why it ran on floats);
    before, after: the score of each.
    """

    share: Estimate
    largest: float
    runtime: str
    integer: bool
    reasons: tuple[tuple[str, str], ...]
    before: float
    after: float


def agreement(model: nn.Module, workload: Workload, split: str = "val") -> Agreement:
    """The model's answers in eager PyTorch against those in ONNX Runtime, from kept predictions."""
    ours = predictions(model, workload, split, runtime="eager")
    theirs = predictions(model, workload, split)
    same = (ours.answers == theirs.answers).reshape(len(ours.answers), -1).all(dim=1)
    first, second = ours.outputs.logits, theirs.outputs.logits
    apart = torch.where(first == second, 0, first - second).abs().max()  # a class that both rule out, −∞, is the same
    largest = torch.where(first.isfinite(), first, 0).abs().max()
    return Agreement(
        share=wilson(int(same.sum()), len(same)),
        largest=float(apart / largest.clamp(min=1e-30)),
        runtime=theirs.compiled,
        integer=theirs.integer,
        reasons=compile(model, workload).reasons,
        before=float(ours.scores.mean()),
        after=float(theirs.scores.mean()),
    )
