"""The pinned baseline: what every delta on the screen is against. The model as it came, until the user pins a run."""

from __future__ import annotations

import json
from dataclasses import dataclass

import streamlit as st
from torch import nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.step import Step
from pages.shared import address, work
from pages.shared.bench import Bench, load_model, one_of

MOST_STEPS = 8  # in a link that somebody else may have made


@dataclass(frozen=True, eq=False)
class Pin:
    """A model of the zoo and the steps that were applied to it."""

    model_name: str
    steps: tuple[Step, ...]

    @property
    def label(self) -> str:
        """cnn, float32 — or cnn · Prune(ratio=0.3)"""
        return " · ".join([self.model_name, *(step.label for step in self.steps)]) if self.steps else (
            f"{self.model_name}, float32"
        )  # fmt: skip

    def model(self, bench: Bench) -> nn.Module:
        """The pinned model itself; made once, the core keeps it."""
        model = load_model(bench.workload.name, self.model_name)
        for step in self.steps:
            assert isinstance(step, mo.Transform)
            model = work.apply(step, model, bench.workload)
        return model


def current(bench: Bench) -> Pin:
    """What is pinned, or the model as it came where nothing is or where the pin belongs to another workload."""
    text = st.session_state.get("pin", "")
    try:
        return _parsed(text, bench) if text else Pin(bench.model_name, ())
    except ModelOptError:
        return Pin(bench.model_name, ())


def chosen(bench: Bench, pinned: Pin) -> bool:
    """Is it something that the user chose, not just the model as it came?"""
    return bool(pinned.steps) or pinned.model_name != bench.model_name


def take(bench: Bench) -> None:
    """Take over what the URL says about the pin."""
    address.take("pin", "pin", lambda text: _text(bench, _parsed(text, bench)))


def pin(bench: Bench, model_name: str, steps: tuple[Step, ...]) -> None:
    """Callback: measure against this from now on."""
    st.session_state["pin"] = _text(bench, Pin(model_name, steps)) if steps or model_name != bench.model_name else ""


def unpin() -> None:
    """Callback: measure against the model as it came again."""
    st.session_state["pin"] = ""


def _text(bench: Bench, pinned: Pin) -> str:
    """One line for the URL: {"on": "digits/cnn", "steps": [{"step": "Prune", …}]}"""
    recipe = json.loads(mo.to_json(pinned.steps))
    return json.dumps({"on": f"{bench.workload.name}/{pinned.model_name}", **recipe}, separators=(",", ":"))


def _parsed(text: str, bench: Bench) -> Pin:
    steps = mo.from_json(text)
    on = json.loads(text).get("on")
    workload, _, model_name = on.partition("/") if isinstance(on, str) else ("", "", "")
    one_of("workload of the pin", workload, [bench.workload.name])
    for step in steps:
        if not isinstance(step, mo.Transform):
            raise ModelOptError(f"a pin is made of steps on one model, as the pages release them, not {step.name}")
    if len(steps) > MOST_STEPS:
        raise ModelOptError(f"a pin of {len(steps)} steps is too long; at most {MOST_STEPS} are allowed")
    pinned = Pin(one_of("model of the pin", model_name, bench.workload.models), steps)
    if any(step.lasts(bench.workload) for step in steps):  # training: minutes, for a link
        pinned.model(bench)
    return pinned
