"""The pool: the models that a page makes one of. Shipped ones, and variants that the user has released, as recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.reading import loads
from pages.state import address, history, pin, stack
from pages.state.bench import Bench
from pages.state.stack import Stack, names

MOST = stack.MOST_MEMBERS
ABOUT = "Shipped models, and what you have released on the other pages. Their order is the order in which you add them."
Defaults = Mapping[str, Sequence[str]]  # workload → names of models


def key(page: str) -> str:
    """Where the session keeps the page's pool, as text."""
    return f"{page}.members"


def prepare(page: str, here: Bench, defaults: Defaults) -> None:
    """Take over what the URL says, and put the pool at one that this workload has."""
    address.take("members", key(page), lambda said: text(_parsed(said, here)))
    try:
        found = _parsed(st.session_state.get(key(page), ""), here)
    except ModelOptError:
        found = ()  # another workload's
    if not found:
        names = defaults.get(here.workload.name, here.workload.models[:2])
        st.session_state[key(page)] = text([Stack(name, ()) for name in names])


def current(page: str, here: Bench) -> tuple[Stack, ...]:
    """The members, in order."""
    return _parsed(st.session_state[key(page)], here)


def choose(page: str, here: Bench) -> None:
    """The select of members: every shipped model of the workload and every variant released in this session."""
    members = current(page, here)
    held = [text((member,)) for member in members]
    released = [run.made for run in history.runs() if run.workload == here.workload.name]
    offered = [*(Stack(name, ()) for name in here.workload.models), pin.current(here), *released, *members]
    options = {text([member]): names([member])[0] for member in offered}
    widget = f"{key(page)}.select"
    st.session_state[widget] = held
    st.multiselect(
        "Members", list(options), key=widget, max_selections=MOST, format_func=lambda found: options.get(found, found),
        help=ABOUT, on_change=_chosen, args=(page, widget),
    )  # fmt: skip


def _chosen(page: str, widget: str) -> None:
    """Callback: the new pool, in the order in which it was chosen."""
    chosen = st.session_state.get(widget) or []
    if len(chosen) < 2:
        address.tell("At least 2 models make a pool; add another before you take one away.")
        return
    st.session_state[key(page)] = of_texts(chosen)


def text(members: Sequence[Stack]) -> str:
    """cnn,mlp; with variants JSON: ["cnn",{"on":"mlp","steps":[{"step":"Prune","ratio":0.3}]}]"""
    return _join([member.item for member in members])


def of_texts(texts: Sequence[str]) -> str:
    """One pool of the members that these texts name."""
    return _join([item for one in texts for item in _items(one)])


def _join(items: Sequence[Any]) -> str:
    plain = all(isinstance(item, str) for item in items)
    return ",".join(items) if plain else json.dumps(items, separators=(",", ":"))


def _items(text: str) -> list[Any]:
    """The pool's text as a list of names and of mappings."""
    if not text.startswith("["):
        return [name for name in text.split(",") if name]
    return list(loads(text, "members", "write members=cnn,mlp"))


def _parsed(text: str, here: Bench) -> tuple[Stack, ...]:
    """The pool that a text names; ModelOptError for what is no model of the workload."""
    items = _items(text)
    if len(items) == 1:
        raise ModelOptError("a pool of 1 member is too small; at least 2 are needed")
    if len(items) > MOST:
        raise ModelOptError(f"a pool of {len(items)} members is too large; at most {MOST} are allowed")
    return tuple(pin.read(item, here, shipped(here)) for item in items)


def shipped(here: Bench) -> list[str]:
    """The workload's models, then those of its subtasks."""
    own = [name for task in here.workload.subtasks for name in task.models]
    return list(dict.fromkeys([*here.workload.models, *own]))
