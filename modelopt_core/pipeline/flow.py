"""Which stage lost which example: arithmetic on what the models have said. Nothing here runs a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.estimate import Estimate, mean_interval
from modelopt_core.measure import stacked
from modelopt_core.parts import Damaged
from modelopt_core.pipeline.plan import Plan, Stage
from modelopt_core.pipeline.step import Piped
from modelopt_core.pipeline.walk import Kept, Rows, Walked, walk
from modelopt_core.workload import Workload

SWITCHES = ("model", "oracle", "off")
SURE = 1e-6  # probability that an oracle leaves to what is not true, so that logarithms stay finite


@dataclass(frozen=True, eq=False)
class Flow:
    """What happened to n examples. names: of the S stages; answers, scores: (n,); right: (S, n), did the stage do its
    own job; ran: (S, n), was it asked; lost: (n,), the first stage that was wrong about an example whose answer is
    wrong, else −1; recovered: (n,), the same for those that came out right nevertheless; how: simulated with an oracle.
    """

    names: tuple[str, ...]
    answers: Tensor
    scores: Tensor
    right: Tensor
    ran: Tensor
    lost: Tensor
    recovered: Tensor
    how: str

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
    nothing: a judge passes all, a map leaves all as it is, a route and an expert are undecided.
    """
    if not isinstance(whole, Piped):
        name = getattr(whole, "called", type(whole).__name__)
        raise ModelOptError(f"{name} has no stages to follow; give what Pipeline(…).apply made")
    plan, modes = whole.plan, _modes(whole.plan, switches or {})
    kept = _Kept(whole, workload, split, {"runtime": runtime, "device": device})
    walked, source = kept.go(modes)
    scores = (walked.said.argmax(dim=1) == kept.labels).float()
    right = [_right(stage, modes, kept, walked, source, scores) for stage in plan.stages]
    wrong = ~torch.stack(right)
    first = torch.where(wrong.any(dim=0), wrong.int().argmax(dim=0), -1)
    return Flow(
        names=tuple(stage.name for stage in plan.stages),
        answers=walked.said.argmax(dim=1),
        scores=scores,
        right=~wrong,
        ran=torch.stack([source.ran[list(stage.members)].any(dim=0) for stage in plan.stages]),
        lost=torch.where(scores < 1, first, -1),
        recovered=torch.where(scores < 1, -1, first),
        how="simulated" if "oracle" in modes.values() else "measured",
    )


class _Kept:
    """Of one split: what the parts said, what their models say of sound inputs, and the truth."""

    def __init__(self, whole: Piped, workload: Workload, split: str, how: Mapping[str, Any]) -> None:
        self.plan, self.limits = whole.plan, whole.limits
        self.labels = workload.split(split).targets
        self.harmed = torch.zeros(len(self.labels), dtype=torch.bool)
        self.said = self.sound = stacked(whole.parts, workload, split, **how)
        if any(stage.kind == "map" for stage in self.plan.stages):
            bare, clean = [whole.members[member] for member, _ in self.plan.parts], workload
            if isinstance(workload, Damaged):
                clean, self.harmed = workload.whole, workload.harmed[split]
            self.sound = stacked(bare, clean, split, **how)[:, : len(self.labels)]

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

    def go(self, modes: Mapping[str, str]) -> tuple[Walked, _Switched]:
        """The walk with these switches."""
        source = _Switched(self, modes)
        return walk(self.plan, source, *self.limits), source


class _Switched(Kept):
    """What was said, but of stages that know the truth or say nothing."""

    def __init__(self, kept: _Kept, modes: Mapping[str, str]) -> None:
        super().__init__(kept.plan, kept.said)
        self.kept, self.modes, self.clean = kept, modes, torch.zeros_like(kept.harmed)

    def ask(self, stage: Stage, rows: Rows, group: int = 0) -> Tensor:
        mode = self.modes[stage.name]
        self.ran[stage.member(group), rows] = 1
        if mode == "model":
            said = super().ask(stage, rows, group)
            if not bool(self.clean.any()):
                return said
            bare = self._bare(stage.member(group))
            return torch.where(self.clean[rows, None], self.kept.sound[bare, rows, : said.shape[1]], said)
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
        mode = self.modes[stage.name]
        self.ran[stage.member(), rows] = 1
        if mode == "model":
            super().mend(stage, rows)
        elif mode == "oracle":
            self.clean[rows] = True

    def _bare(self, member: int) -> int:
        """A part of this model; `sound` has what it says of sound inputs at each of them."""
        return next(place for (m, _), place in self.places.items() if m == member)


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
    better = kept.go({**modes, stage.name: "oracle"})[0].said.argmax(dim=1) == kept.labels
    return ~(source.ran[stage.member()].bool() & better & (scores < 1))


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
