"""Which stage lost which example: arithmetic on what the models have said. Nothing here runs a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.digest import CODE_VERSION
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import identity
from modelopt_core.steps.pipeline.pipeline import Piped
from modelopt_core.steps.pipeline.plan import Plan, Stage, Way
from modelopt_core.steps.pipeline.walk import Kept, Rows, Walked, walk
from modelopt_core.tasks.statistics import Estimate, mean_interval
from modelopt_core.workloads.damage import Altered, Damaged
from modelopt_core.workloads.workload import Workload

SWITCHES = ("model", "oracle", "off")
SURE = 1e-6  # probability that an oracle leaves to what is not true, so that logarithms stay finite


@dataclass(frozen=True, eq=False)
class Flow:
    """What happened to n examples. names: of the S stages; answers, scores: (n,); right: (S, n), did the stage do its
    own job; ran: (S, n), was it asked; lost: (n,), the first stage that was wrong about an example whose answer is
    wrong, else −1; recovered: (n,), the same for those that came out right nevertheless; how: simulated with an oracle;
    ways, way: (n,) in them, the maps that an example went through; known: (n,), was one of them the truth?
    """

    names: tuple[str, ...]
    answers: Tensor
    scores: Tensor
    right: Tensor
    ran: Tensor
    lost: Tensor
    recovered: Tensor
    how: str
    ways: tuple[Way, ...]
    way: Tensor
    known: Tensor

    @property
    def score(self) -> Estimate:
        """Of the whole, with its interval."""
        return mean_interval(self.scores.numpy(), self.how)

    def own(self, stage: int) -> Estimate | None:
        """A stage's own score on what it was asked about and no stage before it spoiled; None where that is nothing."""
        clean = self.right[:stage].all(dim=0) & self.ran[stage]
        return mean_interval(self.right[stage][clean].float().numpy(), self.how) if bool(clean.any()) else None

    def counts(self) -> list[tuple[int, int]]:
        """(lost, recovered) of every stage."""
        return [(int((self.lost == s).sum()), int((self.recovered == s).sum())) for s in range(len(self.names))]


def follow(
    whole: nn.Module,
    workload: Workload,
    split: str = "val",
    *,
    switches: Mapping[str, str] | None = None,
    runtime: str = "onnx",
    device: str = "cpu",
) -> Flow:
    """What every stage does with a split. switches: stage -> `oracle`, which knows its truth, or `off`, which says
    nothing: a judge passes all, a map leaves all as it is, a route and an expert are undecided. The truth of a map is
    what it was made for having been undone; where that was not done to the inputs, it leaves them.
    """
    whole = staged(whole)
    plan, modes = whole.plan, _modes(whole.plan, switches or {})
    kept = replace(_kept(whole, workload, split, modes, runtime, device), limits=whole.limits)
    walked, source = kept.go(modes)
    answers = walked.said.argmax(dim=1)
    scores = (answers == kept.labels).float()
    right = torch.stack([_right(stage, modes, kept, walked, source, scores) for stage in plan.stages])
    first = torch.full_like(answers, -1)
    for at in reversed(range(len(right))):
        first = torch.where(right[at], first, at)
    return Flow(
        names=tuple(stage.name for stage in plan.stages),
        answers=answers,
        scores=scores,
        right=right,
        ran=torch.stack([source.ran[list(stage.members)].amax(dim=0) > 0 for stage in plan.stages]),
        lost=torch.where(scores < 1, first, -1),
        recovered=torch.where(scores < 1, -1, first),
        how="simulated" if "oracle" in modes.values() else "measured",
        ways=source.ways,
        way=source.way,
        known=source.known,
    )


def staged(whole: nn.Module) -> Piped:
    """The pipeline that a model is; ModelOptError for any other."""
    if not isinstance(whole, Piped):
        name = getattr(whole, "called", type(whole).__name__)
        raise ModelOptError(f"{name} has no stages to follow; give what Pipeline(…).apply made")
    return whole


@dataclass(frozen=True, eq=False)
class _Kept:
    """Of n examples: what the parts said, (P, n, k), and what of inputs that were undone by the truth, the truth, and
    the stages that undo.
    """

    plan: Plan
    said: Tensor
    sound: Tensor
    labels: Tensor
    harmed: Tensor
    undo: frozenset[str]
    limits: tuple[float, float] = (0.5, 0.5)

    def truth(self, stage: Stage, group: int = 0) -> tuple[Tensor, int]:
        """(n,) the place of the truth among the k answers of the stage, −1 where it is none of them; k."""
        if stage.kind == "judge":
            return self.harmed.long(), 2
        if stage.kind == "route":
            return stage.group_of[self.labels], len(stage.groups)
        if not stage.groups:
            return self.labels, int(self.said.shape[2])
        within = self.labels[:, None] == torch.tensor(stage.groups[group])  # (n, k)
        return torch.where(within.any(dim=1), within.int().argmax(dim=1), -1), within.shape[1]

    def only(self, rows: Tensor) -> _Kept:
        """The same of some examples (r,)."""
        said, sound = self.said[:, rows], self.sound[:, rows]
        return replace(self, said=said, sound=sound, labels=self.labels[rows], harmed=self.harmed[rows])

    def go(self, modes: Mapping[str, str]) -> tuple[Walked, _Switched]:
        """The walk with these switches."""
        source = _Switched(self, modes)
        return walk(self.plan, source, *self.limits), source


def undoing(plan: Plan, workload: Workload) -> frozenset[str]:
    """The maps that were made for what was done to the inputs."""
    how = workload.how if isinstance(workload, Altered) else None
    able = {task.name for task in workload.subtasks if task.meets == how}
    return frozenset(stage.name for stage in plan.stages if stage.kind == "map" and stage.name in able)


def left(plan: Plan, way: Way, undo: frozenset[str]) -> Way:
    """What of a way lies behind the last map that undid."""
    places = [stage.member() for stage in plan.stages if stage.name in undo]
    return way[1 + max((i for i, member in enumerate(way) if member in places), default=-1) :]


def _kept(whole: Piped, workload: Workload, split: str, modes: Mapping[str, str], runtime: str, device: str) -> _Kept:
    """What does not change with thresholds and hardly with switches, gathered once."""
    undo = undoing(whole.plan, workload)
    maps = [stage.name for stage in whole.plan.stages if stage.kind == "map"]
    plan = replace(whole.plan, loose=any(name not in undo or modes[name] == "off" for name in maps))

    def make() -> _Kept:
        labels, how = workload.split(split).targets, {"runtime": runtime, "device": device}
        said = sound = stacked([whole.behind(way, m) for m, way in plan.parts], workload, split, **how)
        harmed = workload.harmed[split] if isinstance(workload, Damaged) else torch.zeros(len(labels), dtype=torch.bool)
        if undo and isinstance(workload, Altered):
            behind = [whole.behind(left(plan, way, undo), m) for m, way in plan.parts]
            sound = stacked(behind, workload.whole, split, **how)[:, : len(labels)]
        return _Kept(plan, said, sound, labels, harmed, undo)

    keys = [identity.key(model) for model in whole.members]
    key = ("followed", *keys, plan.text, plan.parts, workload.data_hash, split, runtime, device, CODE_VERSION)
    return STORE.get(key, make, lambda kept: kept.said.nbytes + kept.sound.nbytes)


class _Switched(Kept):
    """What was said, but of stages that know the truth or say nothing. known: (n,), did a map know it?"""

    def __init__(self, kept: _Kept, modes: Mapping[str, str]) -> None:
        super().__init__(kept.plan, kept.said)
        self.kept, self.modes, self.known = kept, modes, torch.zeros_like(kept.harmed)

    def ask(self, stage: Stage, rows: Rows, group: int = 0) -> Tensor:
        mode = self.modes[stage.name]
        if mode == "model":
            said = super().ask(stage, rows, group)
            if "oracle" not in self.modes.values() or not bool(self.known.any()):
                return said
            sound = self.look_up(self.kept.sound, stage.member(group), rows)
            return torch.where(self.known[rows, None], sound, said)
        self.ran[stage.member(group), rows] = 1
        place, k = self.kept.truth(stage, group)
        place = place[rows]
        undecided = torch.full((len(place), k), -math.log(k))
        if mode == "off":
            if stage.kind != "judge":
                return undecided
            place = torch.zeros_like(place)  # nothing is damaged
        told = torch.full((len(place), k), math.log(SURE))
        told.scatter_(1, place.clamp_min(0)[:, None], 0.0)
        return torch.where(place[:, None] < 0, undecided, told)

    def mend(self, stage: Stage, rows: Rows) -> None:
        mode, undoes = self.modes[stage.name], stage.name in self.kept.undo
        self.ran[stage.member(), rows] = 1
        if mode == "model" or (mode == "oracle" and undoes):
            super().mend(stage, rows)
        self.known[rows] |= mode == "oracle" and undoes


def _right(stage: Stage, modes: Mapping[str, str], kept: _Kept, walked: Walked, source: Kept, scores: Tensor) -> Tensor:
    """(n,): did the stage do its own job? A map is to blame where the truth in its place would have been enough."""
    if stage.kind == "judge":
        assert walked.flagged is not None
        return walked.flagged == kept.harmed
    if stage.kind == "route":
        assert walked.route is not None
        return walked.route.argmax(dim=1) == kept.truth(stage)[0]
    if stage.kind == "answer":
        return scores > 0
    if modes[stage.name] != "model":
        return torch.ones_like(kept.harmed)
    asked = (source.ran[stage.member()].bool() & (scores < 1)).nonzero()[:, 0]
    found = torch.ones_like(kept.harmed)
    if len(asked):
        some = kept.only(asked)
        found[asked] = some.go({**modes, stage.name: "oracle"})[0].said.argmax(dim=1) != some.labels
    return found


def _modes(plan: Plan, switches: Mapping[str, str]) -> dict[str, str]:
    names = [stage.name for stage in plan.stages]
    for name, mode in switches.items():
        if name not in names:
            raise unknown("stage", name, names)
        if mode not in SWITCHES:
            raise unknown(f"switch of {name}", mode, SWITCHES)
    return {name: switches.get(name, "model") for name in names}


def worth(whole: nn.Module, workload: Workload, split: str = "val", **how: Any) -> dict[str, tuple[float, float]]:
    """Of every stage: the score with an oracle in its place, and with the stage off. how: as of `follow`."""
    names = follow(whole, workload, split, **how).names
    oracle, off = (
        [follow(whole, workload, split, switches={name: mode}, **how).score.value for name in names]
        for mode in SWITCHES[1:]
    )
    return dict(zip(names, zip(oracle, off, strict=True), strict=True))
