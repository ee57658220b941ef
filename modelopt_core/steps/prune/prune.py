"""The step: which criterion, what is removed, how much of which layer, and what follows."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import nn

from modelopt_core.machine.events import Note, Progress, Report
from modelopt_core.steps import checks
from modelopt_core.steps.base import STEPS, Knob, Named, Transform, When
from modelopt_core.steps.prune.criteria import CRITERIA
from modelopt_core.steps.prune.cuts import Left, prune_channels
from modelopt_core.steps.prune.masks import Masks, Plan, prune_weights, stays_of
from modelopt_core.steps.prune.rounds import Round, shares
from modelopt_core.steps.prune.scores import Scorer
from modelopt_core.steps.prune.stats import gather
from modelopt_core.training.loop import fit
from modelopt_core.training.norms import reestimate_norms
from modelopt_core.workloads.workload import Workload

MAX_ROUNDS = 100


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
    shape: Annotated[Literal["square", "row"], When("granularity", "block")] = Field(
        "square", title="Block", description="As high as wide, or one row: neighbouring inputs of one output."
    )
    scope: Annotated[Literal["layer", "global"], When("granularity", "weight", "block", "channel")] = Field(
        "layer", title="Scope", description="The same share of every layer, or the least important of all layers."
    )
    rounds: int = Field(
        1, ge=1, le=MAX_ROUNDS, title="Rounds", description="Remove a part, recover, remove more; 1 is one shot."
    )
    schedule: Annotated[Literal["linear", "cubic"], When("rounds", *range(2, MAX_ROUNDS + 1))] = Field(
        "cubic", title="Schedule", description="The same in every round, or much in the first and little in the last."
    )
    recovery: Literal["none", "norms", "fine-tuned"] = Field(
        "norms",
        title="Then",
        description="After each round do nothing, re-estimate batch norm's averages on training data, or do that and "
        "train for some epochs.",
    )
    epochs: Annotated[int, When("recovery", "fine-tuned")] = Field(
        2, ge=1, le=1000, title="Epochs", description="Passes over the training split after each round."
    )
    lr: Annotated[float, When("recovery", "fine-tuned")] = Field(
        1e-3, gt=0, le=1e9, title="Learning rate", description="First step size of each round; falls to zero."
    )
    batch_size: Annotated[int, When("recovery", "fine-tuned")] = Field(
        64, ge=1, le=65536, title="Batch", description="Examples per step of training."
    )
    augment: Annotated[bool, When("recovery", "fine-tuned")] = Field(
        False,
        title="Vary",
        description="Train on varied examples, where the workload has a way: images moved by a pixel, words left out.",
    )
    ratios: Annotated[
        tuple[tuple[str, float], ...], BeforeValidator(checks.pairs), AfterValidator(checks.layer_ratios)
    ] = Field((), title="Ratio per layer", description="(layer, ratio) pairs: these layers have a ratio of their own.")
    frozen: Annotated[tuple[str, ...], AfterValidator(checks.names)] = Field(
        (), title="Frozen", description="Layers whose weights, or whose channels, all stay."
    )

    @property
    def pattern(self) -> str:
        """What the setting really is where it is n:m, as `2:4`; else empty."""
        return f"{stays_of(self.ratio, self.size)}:{self.size}" if self.granularity == "n:m" else ""

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of a block; of n:m, m is the columns."""
        return (self.size if self.shape == "square" else 1, self.size)

    @property
    def plan(self) -> Plan:
        """How much goes from where; a frozen layer has the ratio 0."""
        return Plan(self.ratio, self.scope == "global", {**dict(self.ratios), **dict.fromkeys(self.frozen, 0.0)})

    def lasts(self, workload: Workload) -> bool:
        """Training takes long; everything else is a matter of milliseconds."""
        return self.recovery == "fine-tuned"

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        criterion, plan = CRITERIA[self.criterion], self.plan
        if not any((plan.ratio, *plan.own.values())):
            return model
        left = Left.whole(model, workload.example) if self.granularity == "channel" else None
        gone: Masks = {}
        for at, share in enumerate(shares(self.rounds, self.schedule)):
            tell = Round(report, at, self.rounds)
            gathered = gather(model, workload, criterion["needs"], generator.initial_seed())  # type: ignore[arg-type]
            scorer = Scorer(model, criterion, generator, gathered)
            if left:
                model, left = prune_channels(model, left, plan.part(share), scorer, tell)
            else:
                gone = prune_weights(model, plan.part(share), scorer, self.granularity, self.block, gone)
            model = self._recovered(model, workload, generator.initial_seed() + at, tell)
        if self.granularity == "n:m" and round(self.ratio * self.size) == self.size:
            report(Note(f"{self.pattern}: one of every {self.size} weights stays; choose a larger size to remove more"))
        return model

    def _recovered(self, model: nn.Module, workload: Workload, seed: int, report: Round) -> nn.Module:
        """What follows a round."""
        if self.recovery != "none":
            model = reestimate_norms(model, workload)
        if self.recovery == "fine-tuned":
            return fit(
                model,
                workload,
                epochs=self.epochs,
                lr=self.lr,
                batch_size=self.batch_size,
                augment=workload.augment if self.augment else None,
                keep_zeros=True,
                seed=seed,
                report=report,
            )
        if self.rounds > 1:
            report(Progress("prune", 1, 1))
        return model
