"""The URL holds the whole state. This is the one place that reads and writes it.

Names in the URL are the core's own (`workload=digits&ratio=0.62`), so a link can be written by hand and outlives a
changed label. It is read when a session begins and when the user goes back or forward; what it says and isn't allowed
is told in one line and left at its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.reading import MARK
from pages.draw import say

MOST_CHARACTERS = 2_000  # of one parameter; a pinned recipe takes some 300
BENCH = ("workload", "model", "view", "device", "runtime", "pin")


def read() -> None:
    """Note what the URL says, once a session, and again where it changed while nothing on the page did."""
    state, url = st.session_state, st.query_params.to_dict()
    stale = state.pop("url.stale", False)
    if "url.written" not in state:
        state["url.pending"] = url
    elif not stale and url and url != state["url.written"] and _values() == state["url.values"]:
        gone = dict.fromkeys(state["url.written"].keys() - url.keys(), "")
        state["url.pending"] = {**gone, **url}  # back or forward: a click would have changed a value


def rerun() -> None:
    """Draw the page again without anybody having asked, as when a measurement is complete.

    The browser may have sent its URL before it heard of the latest one: that is not a step back.
    """
    st.session_state["url.stale"] = True
    st.rerun()


def take(name: str, key: str, check: Callable[[str], Any]) -> None:
    """Put the URL's `name` into the session under `key`, once `check` has made a value of it.

    What is empty there is not set: the caller's default holds.
    """
    text = st.session_state.get("url.pending", {}).pop(name, None)
    if text is None:
        return
    if not text:
        st.session_state.pop(key, None)
        return
    try:
        st.session_state[key] = check(text.removeprefix(MARK)[:MOST_CHARACTERS])
    except ModelOptError as error:
        tell(f"Link: {error}. Using the default.")


def tell(line: str) -> None:
    """Say something in one line when the page is drawn."""
    st.session_state.setdefault("url.notes", []).append(line)


def tell_notes() -> None:
    """Show what was to be told, once, in one line."""
    notes = st.session_state.pop("url.notes", [])
    if notes:
        more = f" And {len(notes) - 1} more like it." if len(notes) > 1 else ""
        say.toast(notes[0][:300] + more, icon=":material/info:", duration="long")


def own(fields: dict[str, str]) -> None:
    """The page's own parameters: name in the URL → key in the session."""
    st.session_state["url.fields"] = fields


def forget(but: Iterable[str]) -> None:
    """What the page has in its link beside these keys goes: the page begins with it anew."""
    for key in set(st.session_state.get("url.fields", {}).values()) - set(but):
        st.session_state.pop(key, None)


def write() -> None:
    """Make the URL say what the session holds."""
    state = st.session_state
    values = _values()
    if st.query_params.to_dict() != values:
        st.query_params.from_dict(values)
    state["url.written"] = state["url.values"] = values


def _values() -> dict[str, str]:
    state = st.session_state
    keys = {**{name: name for name in BENCH}, **state.get("url.fields", {})}
    return {name: said(state[key]) for name, key in keys.items() if state.get(key) not in (None, "", ())}


def said(value: object) -> str:
    """A value as the URL says it; a tuple as conv1,fc1, pairs as conv1:0.5,fc1:0.3."""
    if not isinstance(value, tuple):
        return str(value)
    return ",".join(":".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
