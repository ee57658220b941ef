"""What the stages do with inputs: one walk, whether models are really asked or what they said before is looked up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.models.composite import Call
from modelopt_core.steps.pipeline.plan import Plan, Stage
from modelopt_core.tasks import boxes

Rows = slice | Tensor  # all examples, or the indices (r,) of some
ALL = slice(None)


class Source(ABC):
    """Where the walk has its answers from."""

    @abstractmethod
    def ask(self, stage: Stage, rows: Rows, group: int = 0) -> Tensor:
        """Log-probabilities (r, k) of the stage's model about these examples, as they are now."""

    @abstractmethod
    def mend(self, stage: Stage, rows: Rows) -> None:
        """From now on these examples are what the stage's map makes of them."""


@dataclass(frozen=True, eq=False)
class Walked:
    """said: log-probabilities (n, K); flagged: (n,) where a judge found damage; route: log-probabilities (n, G)."""

    said: Tensor
    flagged: Tensor | None
    route: Tensor | None


def walk(plan: Plan, source: Source, threshold: float, suspicion: float) -> Walked:
    """All stages over all examples. threshold: how sure a route must be for one expert; suspicion: a judge's, to mend.

    A label's probability is its group's times what the expert gives it; where the route is unsure, every expert is
    asked. Experts that are not asked count as undecided between their labels.
    Source: Jacobs, Jordan, Nowlan and Hinton, Adaptive Mixtures of Local Experts, Neural Computation 3, 1991.
    """
    flagged = pending = route = None
    for stage in plan.stages[:-1]:
        if stage.kind == "judge":
            flagged = pending = source.ask(stage, ALL)[:, 1].exp() >= suspicion
        elif stage.kind == "route":
            route = coarse(source.ask(stage, ALL), stage.groups)
        else:
            rows = ALL if pending is None else pending.nonzero()[:, 0]
            if pending is None or len(rows):  # type: ignore[arg-type]
                source.mend(stage, rows)
            pending = None
    last = plan.stages[-1]
    said = source.ask(last, ALL) if route is None else _experts(last, source, route, threshold)
    return Walked(said, flagged, route)


def _experts(stage: Stage, source: Source, route: Tensor, threshold: float) -> Tensor:
    """Group by group: log-probabilities of the groups (n, G) -> of the labels (n, K)."""
    n, groups = route.shape
    surest = route.max(dim=1)
    needs = (surest.indices == torch.arange(groups)[:, None]) | (surest.values.exp() < threshold)  # (G, n)
    said = (route - stage.log_sizes)[:, stage.group_of]
    for group, count in enumerate(needs.sum(dim=1).tolist()):
        if not count:
            continue
        rows: Rows = ALL if count == n else needs[group].nonzero()[:, 0]
        labels = torch.tensor(stage.groups[group])
        found = route[rows, group, None] + fine(source.ask(stage, rows, group), labels)
        said[rows if isinstance(rows, slice) else rows[:, None], labels] = found
    return said


def coarse(said: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities (n, G) of the groups; of a model that tells labels, (n, K), the sums over each group."""
    if said.shape[1] == len(groups):
        return said
    return torch.stack([said[:, list(labels)].logsumexp(dim=1) for labels in groups], dim=1)


def fine(said: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (n, k) within a group of labels (k,); of a model that tells all labels, (n, K), given these."""
    return said if said.shape[1] == len(labels) else torch.log_softmax(said[:, labels], dim=1)


def remade(made: Tensor, of: Tensor) -> Tensor:
    """What a map put out, as inputs: pixels in one row (n, pixels) get the shape of what it took, held in [0, 1]; of
    boxes (n, 3) what lies in them is cut out.
    """
    if made.dim() == of.dim():
        return made
    return boxes.crop(of, made) if is_box(made, of) else made.clamp(0, 1).reshape(of.shape)


def is_box(made: Tensor, of: Tensor) -> bool:
    """Does a map say where to look, (n, 3), of pictures (n, c, h, w)?"""
    return of.dim() == 4 and made.shape[1:] == (boxes.NUMBERS,) != (of.shape[1:].numel(),)


class Live(Source):
    """Models that are really asked. calls: in the pool's order; inputs: (n, *shape)."""

    def __init__(self, calls: Sequence[Call], inputs: Tensor) -> None:
        self.calls, self.inputs = calls, inputs

    def ask(self, stage: Stage, rows: Rows, group: int = 0) -> Tensor:
        return torch.log_softmax(self.calls[stage.member(group)](self.inputs[rows]), dim=-1)

    def mend(self, stage: Stage, rows: Rows) -> None:
        given = self.inputs[rows]
        made = remade(self.calls[stage.member()](given), given)
        if len(made) == len(self.inputs):
            self.inputs = made
        else:
            self.inputs = self.inputs.clone()
            self.inputs[rows] = made


class Kept(Source):
    """What the parts have said before, (P, n, k), -inf past the classes of a part. ran: (models, n), who was asked."""

    def __init__(self, plan: Plan, said: Tensor) -> None:
        self.said, self.places, self.ways = said, {part: i for i, part in enumerate(plan.parts)}, plan.ways
        possible = (said > -torch.inf).any(dim=1)  # (P, k): a network of its own may rule out a class, not the last
        self.widths = (possible * torch.arange(1, said.shape[2] + 1)).amax(dim=1).tolist()
        models, n = 1 + max(m for stage in plan.stages for m in stage.members), said.shape[1]
        self.ran, self.way = torch.zeros(models, n), torch.zeros(n, dtype=torch.int64)

    def ask(self, stage: Stage, rows: Rows, group: int = 0) -> Tensor:
        member = stage.member(group)
        self.ran[member, rows] = 1
        return self.look_up(self.said, member, rows)

    def look_up(self, said: Tensor, member: int, rows: Rows) -> Tensor:
        """Of what the parts have said (P, n, k), what this model has of the examples as they are now."""
        places = [self.places.get((member, way), -1) for way in self.ways]
        known = [place for place in places if place >= 0]
        if len(known) == 1:
            return said[known[0], rows, : self.widths[known[0]]]
        at = torch.arange(len(self.way))[rows]
        return said[torch.tensor(places)[self.way[rows]], at, : self.widths[known[0]]]

    def mend(self, stage: Stage, rows: Rows) -> None:
        member = stage.member()
        self.ran[member, rows] = 1
        after = {way: i for i, way in enumerate(self.ways)}
        longer = torch.tensor([after.get((*way, member), -1) for way in self.ways])
        self.way[rows] = longer[self.way[rows]]
