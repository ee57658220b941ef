"""What the members said on val: the arithmetic of these pages begins with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from modelopt_core.machine.cache import STORE
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import identity
from modelopt_core.steps.cascade import INPUTS, Exits
from modelopt_core.steps.ensemble import judged
from pages.state import stack
from pages.work.trial import Trial

T = TypeVar("T")


def stages(trial: Trial) -> list[nn.Module]:
    """Who answers: the members, or the ways out of the last of them."""
    return trial.after.parts if _exits(trial) else stack.models(trial.members, trial.bench.workload)  # type: ignore[return-value]


def names(trial: Trial) -> list[str]:
    """What charts call the stages: the members, or on inputs, behind conv1, behind conv2, cnn."""
    told = stack.names(trial.members)
    if not _exits(trial):
        return told
    return [*(f"{'on' if layer == INPUTS else 'behind'} {layer}" for layer in trial.after.layers), told[-1]]  # type: ignore[union-attr]


def _exits(trial: Trial) -> bool:
    return isinstance(trial.after, Exits)


def log_probabilities(trial: Trial) -> Any:
    """A tensor (members, examples of val, classes)."""
    here = trial.bench
    return stacked(stages(trial), here.workload, runtime=here.runtime, device=here.device)


def truth(trial: Trial) -> Any:
    """The targets of val, (examples,)."""
    return trial.bench.workload.val.targets


def answers(trial: Trial) -> tuple[Any, Any]:
    """(members, examples): what each member answers, and 1 where that is right."""
    chosen = log_probabilities(trial).argmax(2)
    return chosen, (chosen == truth(trial)).int()


def judge(trial: Trial, weights: Sequence[float]) -> tuple[float, float]:
    """(log loss, score) on val of the members with these weights, under the trial's rule."""
    return judged(log_probabilities(trial), weights, trial.step.rule, trial.bench.workload, truth(trial))


def kept(trial: Trial, what: str, make: Callable[[], T]) -> T:
    """What takes longer than drawing it is computed once for these members."""
    here = trial.bench
    keys = [identity.key(model) for model in stages(trial)]
    return STORE.get(("members", what, *keys, here.workload.data_hash, here.runtime, here.device), make)


def gates(trial: Trial) -> tuple[Any, Any]:
    """Of a cascade, (stages, examples): how sure each stage is of its answer, and the answer's score."""
    here, step = trial.bench, trial.step

    def make() -> tuple[Any, Any]:
        return step.sure(log_probabilities(trial), step.temperatures(stages(trial), here.workload)), answers(trial)[
            1
        ].float()

    return kept(trial, f"gates {step.confidence} {step.calibrate}", make)
