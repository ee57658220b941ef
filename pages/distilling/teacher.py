"""Who teaches: the bench's model, or an ensemble, a cascade or another joint model of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.distill import OWN
from modelopt_core.steps.reading import loads
from pages.state import address, controls, history, pin, pool, stack
from pages.state.bench import Bench
from pages.state.loaded import load_model
from pages.state.stack import Stack

TEACHER = "Distill.teacher"  # the item of `Stack.item` as text; empty: the bench's model
STUDENT = controls.keys(mo.Distill)["student"]
ABOUT = "The model of the sidebar, or several as one: from here, or released on the pages that combine models."


def settle(here: Bench) -> None:
    """A teacher that there is, and a student that it can have."""
    state = st.session_state
    address.take("teacher", TEACHER, lambda text: _text(_read(text, here)))
    try:
        joint = bool(state.get(TEACHER)) and bool(_read(state[TEACHER], here))
    except mo.ModelOptError:  # another workload's, or its job was deleted
        joint = False
    if not joint:
        state[TEACHER] = ""
    elif state[STUDENT] == OWN:
        state[STUDENT] = here.model_name


def on(here: Bench) -> Bench:
    """The bench with the teacher as its model."""
    if not (text := st.session_state[TEACHER]):
        return here
    one = _read(text, here)
    return replace(here, model=one.model(here.workload), model_name=one.name, came=one)


def choose(_: str, here: Bench) -> None:
    """One select."""
    held = st.session_state[TEACHER]
    options = {"": here.model_name}
    for one in (*offered(here), *([_read(held, here)] if held else [])):
        options.setdefault(_text(one), one.name)
    st.session_state[f"{TEACHER}.select"] = held
    st.selectbox("Teacher", list(options), key=f"{TEACHER}.select", format_func=lambda text: options.get(text, text),
                 help=ABOUT, on_change=_chosen)  # fmt: skip


def offered(here: Bench) -> list[Stack]:
    """The model with its other seeds, a cascade that ends with it, and what was released of several models."""
    runs = [run for run in history.runs() if run.workload == here.workload.name and len(run.begin) > 1]
    ready = [stack.made(step, tuple(Stack(name, ()) for name in names)) for step, names in (
        (mo.STEPS["Ensemble"](), seeds(here)), (mo.STEPS["Cascade"](), (_smallest(here), here.model_name)),
    ) if len(set(names)) > 1]  # fmt: skip
    return [*ready, *(run.made for run in runs)]


def seeds(here: Bench) -> Sequence[str]:
    """cnn, cnn-2: the model and the same trained from other seeds; where there are none, all models."""
    base = here.model_name.rpartition("-")[0] or here.model_name
    same = [name for name in here.workload.models if name == base or name.startswith(f"{base}-")]
    return (same if len(same) > 1 else list(here.workload.models))[: stack.MOST_MEMBERS]


def _smallest(here: Bench) -> str:
    def count(name: str) -> int:
        return sum(p.numel() for p in load_model(here.workload.name, name).parameters())

    return min(here.workload.models, key=count)


def _chosen() -> None:
    """Callback: this one teaches from now on."""
    st.session_state[TEACHER] = st.session_state[f"{TEACHER}.select"]


def _text(one: Stack) -> str:
    return json.dumps(one.item, separators=(",", ":"))


def _read(text: str, here: Bench) -> Stack:
    item = loads(text, "teacher", 'write {"of":["cnn","mlp"],"steps":[{"step":"Ensemble"}]}')
    return pin.read(item, here, pool.shipped(here))
