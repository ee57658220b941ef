"""The step: which criterion, what is removed, how much of which layer, and what follows."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.events import Note, Report
from modelopt_core.prune.criteria import CRITERIA
from modelopt_core.prune.masks import Plan, prune_channels, prune_weights, stays_of
from modelopt_core.prune.scores import Scorer
from modelopt_core.prune.stats import gather
from modelopt_core.step import STEPS, Knob, Named, Transform, When
from modelopt_core.train import reestimate_norms
from modelopt_core.workload import Workload


@STEPS.register("Prune")
class Prune(Transform):
    """Remove the share `ratio` of a network's weights or channels that a criterion calls least important."""

    sentence: ClassVar[str] = "Remove what matters least. How much can go before the answers change?"
    formula: ClassVar[str] = "keep the top (1 − p) by score"

    ratio: Annotated[float, Knob(0.0, 0.99, 0.01, "p")] = Field(
        0.3, ge=0, lt=1, title="Ratio", description="Share of the weights, or of the channels, that goes."
    )
    criterion: Annotated[str, Named(CRITERIA, fits="granularity")] = Field(
        "l1", title="Criterion", description="What counts as important."
    )
    granularity: Literal["weight", "n:m", "block", "channel"] = Field(
        "channel",
        title="Remove",
        description="Single weights, some of every m in a row, or blocks leave zeros; channels leave a smaller, "
        "faster network. For n:m the ratio chooses n: 0.5 of 4 is 2:4.",
    )
    size: Annotated[int, When("granularity", "n:m", "block")] = Field(
        4, ge=2, le=64, title="Size", description="m of n:m, or the side of a block."
    )
    scope: Annotated[Literal["layer", "global"], When("granularity", "weight", "block", "channel")] = Field(
        "layer", title="Scope", description="The same share of every layer, or the least important of all layers."
    )
    recovery: Literal["none", "norms"] = Field(
        "norms", title="Then", description="Re-estimate batch norm's averages on training data, or do nothing."
    )
    ratios: tuple[tuple[str, float], ...] = Field(
        (), title="Ratio per layer", description="(layer, ratio) pairs: these layers have a ratio of their own."
    )
    frozen: tuple[str, ...] = Field(
        (), title="Frozen", description="Layers whose weights, or whose channels, all stay."
    )

    @field_validator("ratios", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, dict) else value

    @field_validator("ratios")
    @classmethod
    def _checked_pairs(cls, value: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
        for layer, ratio in value:
            if not 0 <= ratio < 1:
                raise ModelOptError(f"Prune: ratio {ratio:g} of {layer} is not allowed; it must be ≥ 0 and < 1")
        if len({layer for layer, _ in value}) < len(value):
            raise ModelOptError("Prune: ratios name a layer twice; give each layer one ratio")
        return tuple(sorted(value))

    @field_validator("frozen")
    @classmethod
    def _sorted_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(value)))

    @property
    def pattern(self) -> str:
        """What the setting really is where it is n:m, as `2:4`; else empty."""
        return f"{stays_of(self.ratio, self.size)}:{self.size}" if self.granularity == "n:m" else ""

    @property
    def plan(self) -> Plan:
        """How much goes from where; a frozen layer has the ratio 0."""
        return Plan(self.ratio, self.scope == "global", {**dict(self.ratios), **dict.fromkeys(self.frozen, 0.0)})

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        criterion, plan = CRITERIA[self.criterion], self.plan
        if not any((plan.ratio, *plan.own.values())):
            return model
        gathered = gather(model, workload, criterion["needs"], generator.initial_seed())  # type: ignore[arg-type]
        scorer = Scorer(model, criterion, generator, gathered)
        if self.granularity == "channel":
            model = prune_channels(model, workload.example, plan, scorer, report)
        else:
            prune_weights(model, plan, scorer, self.granularity, self.size)
            if self.granularity == "n:m" and round(self.ratio * self.size) == self.size:
                report(
                    Note(f"{self.pattern}: one of every {self.size} weights stays; choose a larger size to remove more")
                )
        return reestimate_norms(model, workload) if self.recovery == "norms" else model
