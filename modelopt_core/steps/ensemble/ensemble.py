"""The step and its module: members with weights under one rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, fx, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Report
from modelopt_core.models.composite import COMPOSITES, Composite, classes, compose, shares
from modelopt_core.steps import checks
from modelopt_core.steps.base import STEPS, Combine, Named
from modelopt_core.steps.ensemble.rules import RULES
from modelopt_core.workloads.workload import Workload


def combined(rule: str, said: Tensor, weights: Tensor) -> Tensor:
    """A rule by name: log-probabilities (M, B, K), weights (M,) -> (B, K)."""
    result: Tensor = RULES[rule](said, weights)
    return result


fx.wrap("combined")  # to a tracer a rule is one operator, whatever it does inside


@COMPOSITES.register("ensemble")
class Combined(Composite):
    """Members whose answers a rule makes one. weights: (M,), they sum to 1."""

    called = "Ensemble"
    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], rule: str) -> None:
        super().__init__()
        self.rule = RULES[rule].name
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))

    def answer(self, said: Tensor) -> Tensor:
        return combined(self.rule, said, self.weights)

    def extra_repr(self) -> str:
        """What a printed model says, and what makes it another model."""
        return f"rule={self.rule}"


@STEPS.register("Ensemble")
class Ensemble(Combine):
    """Ask all members, weigh what they say, answer once. A member without weight is left out of the network."""

    sentence: ClassVar[str] = "Ask several models at once. Whose word should count how much?"
    formula: ClassVar[str] = "p = Σ wₘ pₘ"

    rule: Annotated[str, Named(RULES)] = Field("mean", title="Rule", description="How answers become one.")
    weights: Annotated[tuple[float, ...], AfterValidator(checks.votes)] = Field(
        (),
        max_length=64,
        title="Weights",
        description="One per model of the pool, scaled to sum to 1; none: all equal.",
    )

    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        classes(models, workload.example, self.name)
        weights = self.weights or (1.0,) * len(models)
        if len(weights) != len(models):
            raise ModelOptError(
                f"Ensemble has {len(weights)} weights, the pool {len(models)} models; give every model one weight"
            )
        asked = [at for at, weight in enumerate(weights) if weight > 0]
        whole = compose("ensemble", [models[at] for at in asked], rule=self.rule)
        whole.get_buffer("weights").copy_(shares([weights[at] for at in asked]))
        return whole
