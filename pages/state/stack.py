"""A model as the pages know it: of the zoo or made of several, and the steps that were applied to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.steps.base import Knob, Step
from modelopt_core.workloads.workload import Workload
from pages.state import at_hand
from pages.state.loaded import load_model

MOST_STEPS, MOST_MEMBERS, DEEPEST = 8, 8, 3  # in a link that somebody else may have made
PARTS = {"on", "of", "steps", "version"}  # of an item that is no name
NAMED = 2  # members that a name has room for


@dataclass(frozen=True)
class Stack:
    """A model of the zoo, or members that the first step makes one; and the steps that were applied."""

    model_name: str
    steps: tuple[Step, ...]
    members: tuple[Stack, ...] = ()

    @property
    def name(self) -> str:
        """What charts and tables call it: cnn · Prune 0.3, or Ensemble of cnn + mlp · Quantize 4"""
        told = [short(step) for step in self.steps]
        if self.members:
            few = len(self.members) <= NAMED
            of = " + ".join(one.name for one in self.members) if few else f"{len(self.members)} models"
            return " · ".join([f"{told[0]} of {of}", *told[1:]])
        return " · ".join([self.model_name, *told])

    @property
    def label(self) -> str:
        """cnn, float32 — or cnn · Prune(ratio=0.3)"""
        if self.members:
            return self.name
        return " · ".join([self.model_name, *(step.label for step in self.steps)]) if self.steps else (
            f"{self.model_name}, float32"
        )  # fmt: skip

    def then(self, step: Step) -> Stack:
        """The same with one more step."""
        return Stack(self.model_name, (*self.steps, step), self.members)

    def model(self, workload: Workload) -> nn.Module:
        """The model itself; made once, the core keeps it. ModelOptError where that takes a job which nobody has run."""
        models = [one.model(workload) for one in self.members] or [load_model(workload.name, self.model_name)]
        for step in self.steps:
            models = [at_hand.apply(step, models, workload)]
        return models[0]

    @property
    def item(self) -> Any:
        """As JSON has it: "cnn", {"on": "cnn", "steps": […]} or {"of": […], "steps": […]}."""
        steps = [{"step": step.name, **step.model_dump(mode="json", exclude_defaults=True)} for step in self.steps]
        if self.members:
            return {"of": [one.item for one in self.members], "steps": steps}
        return {"on": self.model_name, "steps": steps} if steps else self.model_name


def made(step: Step, begin: tuple[Stack, ...]) -> Stack:
    """What the step makes of what it begins with."""
    return begin[0].then(step) if isinstance(step, mo.Transform) else Stack("", (step,), begin)


def models(members: Sequence[Stack], workload: Workload) -> list[nn.Module]:
    """The members as modules; made once, the core keeps them."""
    return [member.model(workload) for member in members]


def names(members: Sequence[Stack]) -> list[str]:
    """What charts and tables call the members: cnn, cnn · Prune 0.3; the second of a name is cnn (2)."""
    told: list[str] = []
    for member in members:
        name = member.name
        again = sum(other == name or other.startswith(f"{name} (") for other in told)
        told.append(f"{name} ({again + 1})" if again else name)
    return told


def outline(item: Any, depth: int = 1) -> Stack:
    """What an item says, see `Stack.item`; whether there are such models is for `read` to find out."""
    told = item if isinstance(item, dict) else {"on": item}
    if wrong := sorted(told.keys() - PARTS):
        raise unknown("part of a model", wrong[0], PARTS)
    steps = mo.from_json(
        json.dumps({"steps": []} | {name: told[name] for name in ("version", "steps") if name in told})
    )
    members = _members(told["of"], depth) if "of" in told else ()
    if len(steps) > MOST_STEPS:
        raise ModelOptError(f"a model of {len(steps)} steps is too long; at most {MOST_STEPS} are allowed")
    if members and not steps:
        raise ModelOptError("members need a step that joins them, such as Ensemble, as the first of their steps")
    for at, step in enumerate(steps):
        if isinstance(step, mo.Combine) != (at == 0 and bool(members)):
            raise ModelOptError(f"{step.name} cannot be step {at + 1} of a model: the first joins members, if there "
                                "are any, and the others work on one model")  # fmt: skip
    return Stack("" if members else str(told.get("on")), steps, members)


def _members(items: Any, depth: int) -> tuple[Stack, ...]:
    if not isinstance(items, list) or not 2 <= len(items) <= MOST_MEMBERS:
        raise ModelOptError(f"a model that is made of others has 2 to {MOST_MEMBERS} of them, as a list")
    if depth >= DEEPEST:
        raise ModelOptError(f"models made of models: at most {DEEPEST} deep")
    return tuple(outline(item, depth + 1) for item in items)


def short(step: Step) -> str:
    """Prune 0.3: the step, its knob and what is not at its default, for charts that name several models."""
    fields = type(step).model_fields
    turned = {name for name, info in fields.items() if any(isinstance(meta, Knob) for meta in info.metadata)}
    return " ".join([step.name, *(_said(v) for k, v in step if k in turned or v != fields[k].default)])


def _said(value: object) -> str:
    """0.25 / 0.75 for several."""
    return " / ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value) if isinstance(
        value, tuple) else str(value)  # fmt: skip
