"""The walk for one example, in plain numbers: a dozen tensor operations would cost more than a small model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelopt_core.models.composite import Call
from modelopt_core.steps.pipeline.plan import Plan, Stage
from modelopt_core.steps.pipeline.walk import remade


def single(plan: Plan, calls: Sequence[Call], inputs: Tensor, threshold: float, suspicion: float) -> Tensor:
    """What `walk` says about one input (1, *shape), as log-probabilities (1, K); only those are called who must be."""

    def ask(stage: Stage, group: int = 0) -> list[float]:
        return normalised(calls[stage.member(group)](inputs).tolist()[0])

    flagged, route = True, None
    for stage in plan.stages[:-1]:
        if stage.kind == "judge":
            flagged = math.exp(ask(stage)[1]) >= suspicion
        elif stage.kind == "route":
            route = _coarse(ask(stage), stage.groups)
        else:
            if flagged:
                inputs = remade(calls[stage.member()](inputs), inputs)
            flagged = True
    last = plan.stages[-1]
    if route is None:
        return torch.tensor([ask(last)])
    surest = max(range(len(route)), key=route.__getitem__)
    alone = math.exp(route[surest]) >= threshold
    said = [0.0] * sum(map(len, last.groups))
    for group, labels in enumerate(last.groups):
        if alone and group != surest:
            within = [-math.log(len(labels))] * len(labels)
        else:
            within = _fine(ask(last, group), labels)
        for label, one in zip(labels, within, strict=True):
            said[label] = route[group] + one
    return torch.tensor([said])


def normalised(logits: Sequence[float]) -> list[float]:
    """Log-probabilities of logits: `log_softmax`."""
    total = _log_sum_exp(logits)
    return [one - total for one in logits]


def _log_sum_exp(numbers: Sequence[float]) -> float:
    most = max(numbers)
    return most + math.log(sum(math.exp(one - most) for one in numbers))


def _coarse(said: list[float], groups: Sequence[Sequence[int]]) -> list[float]:
    return said if len(said) == len(groups) else [_log_sum_exp([said[i] for i in labels]) for labels in groups]


def _fine(said: list[float], labels: Sequence[int]) -> list[float]:
    return said if len(said) == len(labels) else normalised([said[i] for i in labels])
