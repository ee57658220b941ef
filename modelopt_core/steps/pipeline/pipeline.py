"""The step and its module: a pool of models, wired by the workload's subtasks into one that really skips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import onnx
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.digest import digest
from modelopt_core.machine.events import Report
from modelopt_core.models import identity
from modelopt_core.models.composite import COMPOSITES, Call, Composite, compose, put_out
from modelopt_core.steps import checks
from modelopt_core.steps.base import STEPS, Combine, Knob
from modelopt_core.steps.pipeline.onnx_graph import piped
from modelopt_core.steps.pipeline.plan import MOST, Plan, Stage, parse, wired
from modelopt_core.steps.pipeline.single import single
from modelopt_core.steps.pipeline.walk import Kept, Live, is_box, remade, walk
from modelopt_core.workloads.subtask import Subtask
from modelopt_core.workloads.workload import Workload


class Chain(Composite):
    """One model behind others that make its input: what a stage says about mended inputs. members: maps, then it."""

    called = "Chain"

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def arithmetic(self) -> bool:
        """No: what its last member says about the inputs as they came does not tell what it says."""
        return False

    def answer(self, said: Tensor) -> Tensor:
        return said[-1]

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        for call in calls[:-1]:
            inputs = remade(call(inputs), inputs)
        return calls[-1](inputs)


@COMPOSITES.register("pipeline")
class Piped(Composite):
    """Stages over members. thresholds: (2,), how sure a route and how suspicious a judge must be."""

    called = "Pipeline"
    thresholds: Tensor

    def __init__(self, members: Sequence[nn.Module], plan: str) -> None:
        super().__init__()
        self.plan = parse(plan, len(members))
        self.members = nn.ModuleList(members)
        self.register_buffer("thresholds", torch.full((2,), 0.5))

    @property
    def skips(self) -> bool:
        return True

    @property
    def has_graph(self) -> bool:
        return not any(getattr(member, "skips", False) for member in self.members)

    @property
    def limits(self) -> tuple[float, float]:
        """`thresholds` as numbers."""
        threshold, suspicion = self.thresholds.tolist()
        return threshold, suspicion

    @property
    def parts(self) -> list[nn.Module]:
        """Every model behind every chain of maps that may stand before it."""
        return [self.behind(way, member) for member, way in self.plan.parts]

    @property
    def working(self) -> list[nn.Module]:
        return list(self.members)

    def behind(self, way: Sequence[int], member: int) -> nn.Module:
        """A model behind these maps."""
        models = [self.members[place] for place in (*way, member)]
        if not way:
            return models[0]
        return identity.stamp(Chain(models).eval(), digest("chain", *map(identity.key, models)))

    def answer(self, said: Tensor) -> Tensor:
        return walk(self.plan, Kept(self.plan, said), *self.limits).said

    def used(self, said: Tensor) -> Tensor:
        """(models, B): 1 for every model that is asked about the example."""
        source = Kept(self.plan, said)
        walk(self.plan, source, *self.limits)
        return source.ran

    def graph(self, members: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        return piped(self.plan, members, self.limits)

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        """Only mended what is damaged; only asked who answers for the group."""
        if len(inputs) == 1 and not isinstance(calls[0], nn.Module):  # a module may be in training
            return single(self.plan, calls, inputs, *self.limits)
        return walk(self.plan, Live(calls, inputs), *self.limits).said

    def extra_repr(self) -> str:
        """What a printed model says, and what makes it another model."""
        return f"plan={self.plan.text}"


@STEPS.register("Pipeline")
class Pipeline(Combine):
    """Each stage does a job of its own and hands on. The pool has the stages' models in order, experts group by group.

    A model that tells all labels may do any stage: it sorts by the sums over the groups and answers within one.
    """

    sentence: ClassVar[str] = "Each model does one job and hands on. Where along the way is an answer lost?"
    formula: ClassVar[str] = "p(y) = p(group) p(y | group)"
    shows: ClassVar[Callable[..., Any] | None] = walk

    stages: Annotated[tuple[str, ...], AfterValidator(checks.stages)] = Field(
        ("groups", "experts"),
        max_length=MOST,
        title="Stages",
        description="Subtasks of the workload in order; each takes what the one before it gives.",
    )
    threshold: Annotated[float, Knob(0.0, 1.0, 0.01, "t")] = Field(
        0.5,
        ge=0,
        le=1,
        title="Threshold",
        description="How sure the sorting must be for one expert to answer; else all are asked.",
    )
    suspicion: Annotated[float, Knob(0.0, 1.0, 0.01, "s")] = Field(
        0.5, ge=0, le=1, title="Suspicion", description="How probable damage must be for an input to be repaired."
    )

    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        plan = wired(self.stages, workload, len(models))
        check(plan, models, workload)
        whole = compose("pipeline", models, plan=plan.text)
        whole.get_buffer("thresholds").copy_(torch.tensor([self.threshold, self.suspicion]))
        return whole


def check(plan: Plan, models: Sequence[nn.Module], workload: Workload) -> None:
    """ModelOptError for a model that does not take the inputs, or answers another question than its stage asks."""
    example = workload.example
    for stage in plan.stages:
        task, found = workload.subtask(stage.name), example
        for at, place in enumerate(stage.members):
            who = f"{stage.name}/{task.label_of(at)}" if len(stage.members) > 1 else stage.name
            found = put_out(models[place], example, f"the model of stage {who!r}", f"choose a model of {workload.name}")
            _answers(who, stage, task, at, found, workload)
        if stage.kind == "map":
            example = remade(found, example)


def _answers(who: str, stage: Stage, task: Subtask, at: int, found: Tensor, workload: Workload) -> None:
    labels = len(workload.labels)
    own = len(stage.groups[at]) if len(stage.members) > 1 else len(task.labels) if stage.kind != "answer" else labels
    if stage.kind == "map":
        fits = found[0].numel() == workload.example[0].numel() or is_box(found, workload.example)
        if task.gives == workload.modality and not fits:
            raise ModelOptError(
                f"the model of stage {who!r} puts out {found[0].numel()} numbers, an {task.gives} has "
                f"{workload.example[0].numel()}; choose a model that gives {task.gives}"
            )
    elif found.shape[-1] not in (own, labels) or (stage.kind == "judge" and found.shape[-1] != own):
        also = "" if own == labels or stage.kind == "judge" else f" or {labels}"
        raise ModelOptError(
            f"the model of stage {who!r} answers with {found.shape[-1]} classes, the stage has {own}{also}; "
            f"choose a model of {workload.name} for it"
        )
