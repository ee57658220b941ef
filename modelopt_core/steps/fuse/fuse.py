"""The step: one model made of all, by its weights, or by a head over what they answer or see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.events import Note, Report
from modelopt_core.models import identity, weight_grid
from modelopt_core.models.composite import classes
from modelopt_core.steps import checks
from modelopt_core.steps.base import STEPS, Combine, Named, When
from modelopt_core.steps.fuse.learn import learned, over_features, over_outputs
from modelopt_core.steps.fuse.merge import aligned, alike, merged, soup
from modelopt_core.steps.fuse.merges import MERGES
from modelopt_core.training.norms import reestimate_norms
from modelopt_core.workloads.workload import Workload

QUICK = 2000  # examples of val from which a head over features is learned in about a second


@STEPS.register("Fuse")
class Fuse(Combine):
    """Make one model of several: average their weights, or learn how to read their answers or their features."""

    sentence: ClassVar[str] = "Melt several networks into one, or learn how to read them all. What survives?"
    formula: ClassVar[str] = "θ = Σ wₘ θₘ, or p = softmax(W z + b)"

    of: Literal["weights", "outputs", "features"] = Field(
        "weights",
        title="Fuse",
        description="Weights: one network of the same size. Outputs: a head reads all answers. Features: a head reads "
        "what every last layer reads.",
    )
    merge: Annotated[str, Named(MERGES), When("of", "weights")] = Field(
        "average", title="Merge", description="How tensors become one."
    )
    align: Annotated[Literal["none", "permute"], When("of", "weights")] = Field(
        "permute", title="Align", description="Bring the units of every network into the order of the first one's."
    )
    recovery: Annotated[Literal["none", "norms"], When("of", "weights")] = Field(
        "norms", title="Then", description="Re-estimate batch norm's averages on training data, or do nothing."
    )
    select: Annotated[Literal["all", "greedy"], When("merge", "average")] = Field(
        "all", title="Take", description="All, or the best on val and then only those that do not lower its score."
    )
    scale: Annotated[float, When("merge", "task_arithmetic", "ties")] = Field(
        1.0, ge=0, le=4, title="Scale", description="How far to go from the base, which is the pool's first model."
    )
    density: Annotated[float, When("merge", "ties")] = Field(
        0.2, gt=0, le=1, title="Density", description="The share of each network's changes that is kept."
    )
    weights: Annotated[tuple[float, ...], When("of", "weights"), AfterValidator(checks.shares)] = Field(
        (),
        max_length=64,
        title="Weights",
        description="One per model that is merged, 0: as if it were absent; none: all equal.",
    )
    folds: Annotated[int, When("of", "outputs", "features")] = Field(
        5, ge=2, le=20, title="Folds", description="Parts of val; what is said of each comes from a head of the others."
    )
    strengths: Annotated[tuple[float, ...], When("of", "outputs", "features"), AfterValidator(checks.strengths)] = (
        Field(
            (),
            max_length=16,
            title="Pull",
            description="How strongly the head is pulled towards a weighted average; of several the folds choose; "
            "none: from 10 down while the loss falls.",
        )
    )

    def lasts(self, workload: Workload) -> bool:
        """To learn from many numbers of many examples, at one pull after another, does."""
        return self.of == "features" and len(self.strengths) != 1 and len(workload.val) > QUICK

    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        if self.of == "weights":
            return self._melt(models, workload, report)
        classes(models, workload.example, self.name)
        over = over_outputs if self.of == "outputs" else over_features
        whole = over(models, workload, self.folds, self.strengths, generator)
        if (found := learned(whole)) and math.isinf(found.strength):
            report(Note("the plain average stays: no head did better on examples that it had not seen"))
        return whole

    def _melt(self, models: Sequence[nn.Module], workload: Workload, report: Report) -> nn.Module:
        base, members = self._ready(models, workload)
        weights = self._weights(members, workload)
        if self._greedy:
            report(Note(f"{sum(weights):.0f} of {len(members)} models are in the soup"))
        whole = merged(members, weights, MERGES[self.merge], base, self.scale, self.density)
        itself = base is None and sum(weight > 0 for weight in weights) == 1  # norms and all
        return reestimate_norms(whole, workload) if self.recovery == "norms" and not itself else whole

    def shares(self, models: Sequence[nn.Module], workload: Workload) -> tuple[float, ...]:
        """The weights of the networks that are merged: as given, all equal, or 1 and 0 where a soup is greedy."""
        _, members = self._ready([identity.clone(model) for model in models], workload)
        return self._weights(members, workload)

    def _ready(self, models: Sequence[nn.Module], workload: Workload) -> tuple[nn.Module | None, list[nn.Module]]:
        """The base, if the merge needs one, and the networks to merge: off their grids, their units in one order.

        Those without a weight stay as they are.
        """
        pool, entry = alike(models), MERGES[self.merge]
        for layer in (layer for model in pool for layer in model.modules()):
            weight_grid.detach(layer)  # averages do not lie on a grid
        base, members = (pool[0], pool[1:]) if entry["needs_base"] else (None, pool)
        asked = [one for one, weight in zip(members, self._given(len(members)), strict=True) if weight > 0]
        if (arity := int(str(entry["arity"]))) and len(asked) not in (1, arity):
            raise ModelOptError(
                f"{self.merge} merges {arity} models, not {len(asked)}; choose average, or leave out the others"
            )
        if self.align == "permute":
            first = base or asked[0]
            moves = [one is not first and one in asked for one in members]
            members = [aligned(one, first, workload) if move else one for one, move in zip(members, moves, strict=True)]
        return base, members

    @property
    def _greedy(self) -> bool:
        return self.select == "greedy" and self.merge == "average"

    def _weights(self, members: Sequence[nn.Module], workload: Workload) -> tuple[float, ...]:
        if not self._greedy:
            return self._given(len(members))
        norms = self.recovery == "norms"
        key = ("soup", *map(identity.key, members), workload.data_hash, norms)
        return STORE.get(key, lambda: soup(members, workload, norms))

    def _given(self, n: int) -> tuple[float, ...]:
        """The weights of n networks as given, all equal where none are or a soup is greedy."""
        if self._greedy or not self.weights:
            return (1.0,) * n
        if len(self.weights) != n:
            raise ModelOptError(f"Fuse has {len(self.weights)} weights for {n} models; give every merged model one")
        return self.weights
