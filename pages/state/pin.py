"""A model as the pages know it: of the zoo or made of several, and the steps that were applied to it; and the baseline.

The pinned baseline is what every delta on the screen is against: the model as it came, until the user pins a run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st
from torch import nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.steps.base import Knob, Step
from modelopt_core.steps.reading import loads
from pages.state import address
from pages.state.bench import Bench, load_model, one_of
from pages.work import launch

MOST_STEPS, MOST_MEMBERS, DEEPEST = 8, 8, 3  # in a link that somebody else may have made
PARTS = {"on", "of", "steps", "version"}  # of an item that is no name
NAMED = 2  # members that a name has room for


@dataclass(frozen=True)
class Pin:
    """A model of the zoo, or members that the first step makes one; and the steps that were applied."""

    model_name: str
    steps: tuple[Step, ...]
    members: tuple[Pin, ...] = ()

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

    def then(self, step: Step) -> Pin:
        """The same with one more step."""
        return Pin(self.model_name, (*self.steps, step), self.members)

    def model(self, bench: Bench) -> nn.Module:
        """The model itself; made once, the core keeps it. ModelOptError where that takes a job which nobody has run."""
        models = [one.model(bench) for one in self.members] or [load_model(bench.workload.name, self.model_name)]
        for step in self.steps:
            models = [launch.apply(step, models, bench.workload)]
        return models[0]

    @property
    def item(self) -> Any:
        """As JSON has it: "cnn", {"on": "cnn", "steps": […]} or {"of": […], "steps": […]}."""
        steps = [{"step": step.name, **step.model_dump(mode="json", exclude_defaults=True)} for step in self.steps]
        if self.members:
            return {"of": [one.item for one in self.members], "steps": steps}
        return {"on": self.model_name, "steps": steps} if steps else self.model_name


def came(bench: Bench) -> Pin:
    """The model of the bench, as it came."""
    return bench.came or Pin(bench.model_name, ())


def made(step: Step, begin: tuple[Pin, ...]) -> Pin:
    """What the step makes of what it begins with."""
    return begin[0].then(step) if isinstance(step, mo.Transform) else Pin("", (step,), begin)


def outline(item: Any, depth: int = 1) -> Pin:
    """What an item says, see `Pin.item`; whether there are such models is for `read` to find out."""
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
    return Pin("" if members else str(told.get("on")), steps, members)


def _members(items: Any, depth: int) -> tuple[Pin, ...]:
    if not isinstance(items, list) or not 2 <= len(items) <= MOST_MEMBERS:
        raise ModelOptError(f"a model that is made of others has 2 to {MOST_MEMBERS} of them, as a list")
    if depth >= DEEPEST:
        raise ModelOptError(f"models made of models: at most {DEEPEST} deep")
    return tuple(outline(item, depth + 1) for item in items)


def read(item: Any, here: Bench, names: Sequence[str]) -> Pin:
    """The model that an item names. names: of the zoo's models that are allowed.

    ModelOptError for what there is none of, what is too much for a link, and what takes a job which nobody has run.
    """
    found = outline(item)
    _exist(found, here, names)
    return found


def _exist(one: Pin, here: Bench, names: Sequence[str]) -> None:
    for member in one.members:
        _exist(member, here, names)
    if not one.members:
        one_of(f"{here.workload.name} model", one.model_name, names)
    if any(step.lasts(here.workload) for step in one.steps):  # training: minutes, for a link
        one.model(here)


def short(step: Step) -> str:
    """Prune 0.3: the step, its knob and what is not at its default, for charts that name several models."""
    fields = type(step).model_fields
    turned = {name for name, info in fields.items() if any(isinstance(meta, Knob) for meta in info.metadata)}
    return " ".join([step.name, *(_said(v) for k, v in step if k in turned or v != fields[k].default)])


def _said(value: object) -> str:
    """0.25 / 0.75 for several."""
    return " / ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value) if isinstance(
        value, tuple) else str(value)  # fmt: skip


def current(bench: Bench) -> Pin:
    """What is pinned, or the model as it came where nothing is or where the pin belongs to another workload."""
    text = st.session_state.get("pin", "")
    try:
        return _parsed(text, bench) if text else came(bench)
    except ModelOptError:
        return came(bench)


def chosen(bench: Bench, pinned: Pin) -> bool:
    """Is it something that the user chose, not just the model as it came?"""
    return pinned != came(bench)


def take(bench: Bench) -> None:
    """Take over what the URL says about the pin."""
    address.take("pin", "pin", lambda text: _text(bench, _parsed(text, bench)))


def pin(bench: Bench, pinned: Pin) -> None:
    """Callback: measure against this from now on."""
    st.session_state["pin"] = _text(bench, pinned) if chosen(bench, pinned) else ""


def unpin() -> None:
    """Callback: measure against the model as it came again."""
    st.session_state["pin"] = ""


def _text(bench: Bench, pinned: Pin) -> str:
    """One line for the URL: {"on": "digits/cnn", "steps": [{"step": "Prune", …}]}"""
    item = pinned.item if isinstance(pinned.item, dict) else {"on": pinned.item, "steps": []}
    return json.dumps({**item, "on": f"{bench.workload.name}/{pinned.model_name}"}, separators=(",", ":"))


def _parsed(text: str, bench: Bench) -> Pin:
    item = loads(text, "pin")
    if not isinstance(item, dict):
        raise ModelOptError('pin is no model; write {"on":"digits/cnn","steps":[{"step":"Prune"}]}')
    on = item.get("on")
    workload, _, model_name = on.partition("/") if isinstance(on, str) else ("", "", "")
    one_of("workload of the pin", workload, [bench.workload.name])
    return read({**item, "on": model_name}, bench, bench.workload.models)
