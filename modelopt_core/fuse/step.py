"""The step: one network of the pool's own size, made of all."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from modelopt_core import grid
from modelopt_core.errors import ModelOptError
from modelopt_core.events import Note, Report
from modelopt_core.fuse.align import align
from modelopt_core.fuse.merges import MERGES, MergeContext
from modelopt_core.registry import Entry
from modelopt_core.step import STEPS, Combine, Named, When
from modelopt_core.train import evaluate, reestimate_norms
from modelopt_core.workload import Workload


def merged(
    models: Sequence[nn.Module],
    weights: Sequence[float],
    merge: Entry[Callable[[MergeContext], Tensor]],
    base: nn.Module | None = None,
    scale: float = 1.0,
    density: float = 0.2,
) -> nn.Module:
    """A copy of the first model whose floating tensors are merged; weights are scaled to sum to 1."""
    whole = copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    shares, origin = torch.tensor(weights, dtype=torch.float32) / sum(weights), base.state_dict() if base else {}
    state: dict[str, Tensor] = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            stacked = torch.stack([other[name] for other in states])
            state[name] = merge(MergeContext(stacked, shares, origin.get(name), scale, density))
    whole.load_state_dict(state, strict=False)
    return whole.eval()


@STEPS.register("Fuse")
class Fuse(Combine):
    """Make one network of several of the same architecture, of the size of one."""

    sentence: ClassVar[str] = "Melt several networks into one of the same size. What survives?"
    formula: ClassVar[str] = "θ = Σ wₘ θₘ"

    merge: Annotated[str, Named(MERGES)] = Field("average", title="Merge", description="How tensors become one.")
    align: Literal["none", "permute"] = Field(
        "permute", title="Align", description="Bring the units of every network into the order of the first one's."
    )
    recovery: Literal["none", "norms"] = Field(
        "norms", title="Then", description="Re-estimate batch norm's averages on training data, or do nothing."
    )
    select: Annotated[Literal["all", "greedy"], When("merge", "average")] = Field(
        "all", title="Members", description="All, or the best on val and then only those that do not lower its score."
    )
    scale: Annotated[float, When("merge", "task_arithmetic", "ties")] = Field(
        1.0, ge=0, le=4, title="Scale", description="How far to go from the base, which is the pool's first model."
    )
    density: Annotated[float, When("merge", "ties")] = Field(
        0.2, gt=0, le=1, title="Density", description="The share of each network's changes that is kept."
    )
    weights: tuple[float, ...] = Field(
        (), max_length=64, title="Weights", description="One per model that is merged; none: all equal."
    )

    @field_validator("weights")
    @classmethod
    def _usable(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        wrong = [w for w in value if not (math.isfinite(w) and w >= 0)]
        if wrong:
            raise ModelOptError(f"Fuse: a weight of {wrong[0]:g} is not allowed; weights are numbers ≥ 0")
        if value and not sum(value) > 0:
            raise ModelOptError("Fuse: all weights are zero, nothing would be left; give one model a weight")
        return value

    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        entry = MERGES[self.merge]
        pool = _alike(models)
        for layer in (layer for model in pool for layer in model.modules()):
            grid.detach(layer)  # averages do not lie on a grid
        base, members = (pool[0], pool[1:]) if entry["needs_base"] else (None, pool)
        weights = self._weights(len(members), int(str(entry["arity"])))
        if self.align == "permute":
            first = base or members[0]
            members = [one if one is first else align(one, first, workload.example) for one in members]
        if self.select == "greedy" and self.merge == "average":
            return self._soup(members, workload, report)
        whole = merged(members, weights, entry, base, self.scale, self.density)
        return reestimate_norms(whole, workload) if self.recovery == "norms" else whole

    def _weights(self, n: int, arity: int) -> tuple[float, ...]:
        if arity and n != arity:
            raise ModelOptError(f"{self.merge} merges {arity} models, not {n}; choose average, or leave out the others")
        if self.weights and len(self.weights) != n:
            raise ModelOptError(f"Fuse has {len(self.weights)} weights for {n} models; give every merged model one")
        return self.weights or (1.0,) * n

    def _soup(self, members: list[nn.Module], workload: Workload, report: Report) -> nn.Module:
        """The best on val, and every other that does not lower the val score of the average.

        Source: Wortsman et al., Model soups, arXiv 2203.05482, recipe 1.
        """
        ranked = sorted(members, key=lambda model: -evaluate(model, workload, workload.val)[0])
        chosen, best = ranked[:1], ranked[0]
        score = evaluate(best, workload, workload.val)[0]
        for model in ranked[1:]:
            tried = merged([*chosen, model], (1.0,) * (len(chosen) + 1), MERGES["average"])
            tried = reestimate_norms(tried, workload) if self.recovery == "norms" else tried
            if (found := evaluate(tried, workload, workload.val)[0]) >= score:
                chosen, best, score = [*chosen, model], tried, found
        report(Note(f"{len(chosen)} of {len(members)} models are in the soup"))
        return best


def _alike(models: Sequence[nn.Module]) -> list[nn.Module]:
    """The models, if they are two or more of one architecture; else what is in the way."""
    if len(models) < 2:
        raise ModelOptError(f"Fuse needs at least 2 models, the pool has {len(models)}; add another to the pool")
    first = models[0].state_dict()
    for at, model in enumerate(models[1:], start=2):
        state = model.state_dict()
        for name in [*first, *(name for name in state if name not in first)]:
            shapes = [tuple(s[name].shape) if name in s else None for s in (first, state)]
            if shapes[0] != shapes[1]:
                told = " and ".join(
                    f"{shape if shape is not None else 'absent'} in model {i}"
                    for shape, i in zip(shapes, (1, at), strict=True)
                )
                raise ModelOptError(
                    f"Fuse merges one architecture: {name} is {told}; use Ensemble, which fuses their answers"
                )
    return list(models)
