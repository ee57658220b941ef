"""Which stage does what with which models: checked when it is wired, and written into the module's spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.workloads.subtask import Subtask
from modelopt_core.workloads.workload import Workload

Groups = tuple[tuple[int, ...], ...]
Way = tuple[int, ...]  # the models that an input has been through: () is the input as it came

END = "label"  # the type that every pipeline gives
MOST = 8  # stages


@dataclass(frozen=True)
class Stage:
    """One stage. kind: see `KINDS`; members: places of its models in the pool; groups: of a route and of experts."""

    name: str
    kind: str
    members: tuple[int, ...]
    groups: Groups = ()

    def member(self, group: int = 0) -> int:
        """The model that does it for a group: the group's own, or the one that all share."""
        return self.members[group if len(self.members) > 1 else 0]

    @cached_property
    def group_of(self) -> Tensor:
        """(K,): the group of each label."""
        return torch.tensor([g for _, g in sorted((label, g) for g, ls in enumerate(self.groups) for label in ls)])

    @cached_property
    def log_sizes(self) -> Tensor:
        """(G,): of each group, log of how many labels it has."""
        return torch.tensor([float(len(labels)) for labels in self.groups]).log()


@dataclass(frozen=True)
class Plan:
    """The stages in order; the last answers. ModelOptError where no input could find its way through.

    loose: any map may be left out, as where it is switched off.
    """

    stages: tuple[Stage, ...]
    loose: bool = False

    def __post_init__(self) -> None:
        kinds = [stage.kind for stage in self.stages]
        if not kinds or kinds[-1] != "answer" or "answer" in kinds[:-1]:
            raise ModelOptError(f"a pipeline ends with the one stage that answers; its stages are {', '.join(kinds)}")
        if any(kind == "route" and after != "answer" for kind, after in pairwise(kinds)):
            raise ModelOptError("a stage that sorts into groups is followed by the experts; put them there")
        sorted_into = self.stages[-2].groups if len(kinds) > 1 else ()
        if self.stages[-1].groups != sorted_into:
            told = [stage.name for stage in self.stages[-2:]]
            raise ModelOptError(
                f"{told[0]!r} sorts into other groups than {told[-1]!r} answers for; give both the same"
            )

    @property
    def text(self) -> str:
        """As the module's spec has it."""
        return json.dumps([[s.name, s.kind, s.members, s.groups] for s in self.stages], separators=(",", ":"))

    @cached_property
    def ways(self) -> tuple[Way, ...]:
        """All that an input may have been through."""
        return tuple(dict.fromkeys(way for _, ways in self._seen() for way in ways))

    @cached_property
    def parts(self) -> tuple[tuple[int, Way], ...]:
        """(model, way): which model may be asked about which form of the input."""
        seen = [(stage, ways) for stage, ways in self._seen() if stage.kind != "map"]
        return tuple(dict.fromkeys((m, way) for stage, ways in seen for m in stage.members for way in ways))

    def _seen(self) -> list[tuple[Stage, tuple[Way, ...]]]:
        """Of every stage, the ways that its inputs may have come: behind a judge, mended or not."""
        found: list[tuple[Stage, tuple[Way, ...]]] = []
        ways: tuple[Way, ...] = ((),)
        judged = False
        for stage in self.stages:
            found.append((stage, ways))
            if stage.kind == "map":
                mended = tuple((*way, stage.member()) for way in ways)
                ways = (*ways, *mended) if judged or self.loose else mended
            judged = stage.kind == "judge" or (judged and stage.kind != "map")
        return found


def parse(text: str, members: int) -> Plan:
    """The plan that `Plan.text` wrote, for so many models. What a damaged file says instead is a ModelOptError."""
    try:
        stages = []
        for name, kind, places, groups in json.loads(text):
            stage = Stage(str(name), str(kind), tuple(map(int, places)), tuple(tuple(map(int, g)) for g in groups))
            task = Subtask(stage.name, kind, "", "", "", groups=stage.groups)
            if len(stage.members) not in (1, task.experts) or not all(0 <= m < members for m in stage.members):
                raise ValueError(f"{name!r} has models {places}")
            stages.append(stage)
        if len(stages) > MOST:  # every map may double the ways through the rest
            raise ValueError(f"{len(stages)} stages, allowed are {MOST}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelOptError(f"a pipeline's plan is not what this program writes ({str(error)[:80]})") from None
    return Plan(tuple(stages))


def wired(names: Sequence[str], workload: Workload, models: int) -> Plan:
    """The plan of these subtasks of the workload for a pool of so many models, in the order of the stages.

    ModelOptError where a stage gives what the next can't take, naming both and their types; where a model is missing.
    """
    tasks = [workload.subtask(name) for name in names]
    _fits("the workload", workload.modality, tasks[0], workload)
    for before, after in pairwise(tasks):
        _fits(f"stage {before.name!r}", before.gives, after, workload)
    if tasks[-1].gives != END:
        raise ModelOptError(
            f"the last stage {tasks[-1].name!r} gives {tasks[-1].gives}, a pipeline must give {END}; "
            f"add a stage that takes {tasks[-1].gives}{_who(tasks[-1].gives, workload)}"
        )
    counts, at, stages = _counts(tasks, models), 0, []
    for task, count in zip(tasks, counts, strict=True):
        stages.append(Stage(task.name, task.kind, tuple(range(at, at + count)), task.groups))
        at += count
    return Plan(tuple(stages))


def chains(workload: Workload) -> list[tuple[str, ...]]:
    """Every row of two subtasks or more that can be wired, none twice in it, the shortest first.

    No row has two maps: each undoes one alteration, and inputs are altered in one way.
    """
    found: list[tuple[str, ...]] = []
    open_ends: list[tuple[tuple[Subtask, ...], str]] = [((), workload.modality)]
    while open_ends:
        before, gives = open_ends.pop(0)
        for task in workload.subtasks:
            chain = (*before, task)
            if task.takes != gives or task in before or [one.kind for one in chain].count("map") > 1:
                continue
            if task.gives != END:
                open_ends.append((chain, task.gives))
            elif len(chain) > 1:
                found.append(tuple(one.name for one in chain))
    return found


def _fits(giver: str, gives: str, task: Subtask, workload: Workload) -> None:
    if gives != task.takes:
        raise ModelOptError(
            f"{giver} gives {gives}, stage {task.name!r} takes {task.takes}; choose one that takes {gives}"
            f"{_who(gives, workload)}"
        )


def _who(takes: str, workload: Workload) -> str:
    found = [task.name for task in workload.subtasks if task.takes == takes]
    return f": {' or '.join(found)}" if found else f"; {workload.name} has none"


def _counts(tasks: Sequence[Subtask], models: int) -> list[int]:
    """How many models of the pool each stage has: one each, or one for every group of the experts."""
    counts = [task.experts for task in tasks]
    if models in (len(tasks), sum(counts)):
        return [1] * len(tasks) if models == len(tasks) else counts
    needed = [f"{task.name}/{task.label_of(i)}" if n > 1 else task.name
              for task, n in zip(tasks, counts, strict=True) for i in range(n)]  # fmt: skip
    told = f"Pipeline of {', '.join(task.name for task in tasks)} needs {len(needed)} models, one a stage and group"
    if len(tasks) != sum(counts):
        told += f", or {len(tasks)} if one answers for all groups"
    if models < len(needed):
        raise ModelOptError(f"{told}; the pool has {models}: the model of {needed[models]!r} is missing, add it")
    raise ModelOptError(f"{told}; the pool has {models}: take {models - len(needed)} away")
