"""The pinned baseline is what every delta on the screen is against: the model as it came, until the user pins a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.reading import loads
from pages.state import address
from pages.state.bench import Bench, one_of
from pages.state.stack import Stack, outline


def came(bench: Bench) -> Stack:
    """The model of the bench, as it came."""
    return bench.came or Stack(bench.model_name, ())


def read(item: Any, here: Bench, names: Sequence[str]) -> Stack:
    """The model that an item names. names: of the zoo's models that are allowed.

    ModelOptError for what there is none of, what is too much for a link, and what takes a job which nobody has run.
    """
    found = outline(item)
    _exist(found, here, names)
    return found


def _exist(one: Stack, here: Bench, names: Sequence[str]) -> None:
    for member in one.members:
        _exist(member, here, names)
    if not one.members:
        one_of(f"{here.workload.name} model", one.model_name, names)
    if any(step.lasts(here.workload) for step in one.steps):  # training: minutes, for a link
        one.model(here.workload)


def current(bench: Bench) -> Stack:
    """What is pinned, or the model as it came where nothing is or where the pin belongs to another workload."""
    text = st.session_state.get("pin", "")
    try:
        return _parsed(text, bench) if text else came(bench)
    except ModelOptError:
        return came(bench)


def chosen(bench: Bench, pinned: Stack) -> bool:
    """Is it something that the user chose, not just the model as it came?"""
    return pinned != came(bench)


def take(bench: Bench) -> None:
    """Take over what the URL says about the pin."""
    address.take("pin", "pin", lambda text: _text(bench, _parsed(text, bench)))


def pin(bench: Bench, pinned: Stack) -> None:
    """Callback: measure against this from now on."""
    st.session_state["pin"] = _text(bench, pinned) if chosen(bench, pinned) else ""


def unpin() -> None:
    """Callback: measure against the model as it came again."""
    st.session_state["pin"] = ""


def _text(bench: Bench, pinned: Stack) -> str:
    """One line for the URL: {"on": "digits/cnn", "steps": [{"step": "Prune", …}]}"""
    item = pinned.item if isinstance(pinned.item, dict) else {"on": pinned.item, "steps": []}
    return json.dumps({**item, "on": f"{bench.workload.name}/{pinned.model_name}"}, separators=(",", ":"))


def _parsed(text: str, bench: Bench) -> Stack:
    item = loads(text, "pin")
    if not isinstance(item, dict):
        raise ModelOptError('pin is no model; write {"on":"digits/cnn","steps":[{"step":"Prune"}]}')
    on = item.get("on")
    workload, _, model_name = on.partition("/") if isinstance(on, str) else ("", "", "")
    one_of("workload of the pin", workload, [bench.workload.name])
    return read({**item, "on": model_name}, bench, bench.workload.models)
