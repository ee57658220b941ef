"""The sidebar: the bench on top, the pages in the middle, view, undo and the link at the foot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from modelopt_core.steps.base import STEPS
from pages.draw.say import plain
from pages.frame import guess
from pages.frame.copy_link import copy_link
from pages.state import address, bench, controls, history, pin
from pages.work import work_list


def draw(here: bench.Bench, pages: Mapping[str, Sequence[Any]], page: Any) -> Any:
    """pages: section title → its pages; page: the one that is open. Returns the place that `buttons` fills."""
    with st.sidebar:
        bench.choose(here)
        bench.run_settings()
        _navigation(pages)
        work_list.draw({member.title: member for members in pages.values() for member in members})
        with st.container(key="foot"):
            st.segmented_control(
                "View", bench.VIEWS, format_func=str.capitalize, key="view", required=True, width="stretch",
                persist_state="session", on_change=guess.forget,
                help="Learn asks and explains, Tune is dense, Present is large.",
            )  # fmt: skip
            place = st.container()
            copy_link("copy-link")
            _pinned(here)
    return place


def buttons(place: Any, title: str) -> None:
    """Undo and Reset of the page, once it is drawn: it has noted by then what there is to undo."""
    with place:
        st.fragment(_buttons, key="history")(title, STEPS[title].function if title in STEPS else None)


def _navigation(pages: Mapping[str, Sequence[Any]]) -> None:
    with st.container(key="pages", gap=None):
        for section, members in pages.items():
            if section:
                st.html(f'<div class="mo-section">{escape(section)}</div>')
            for member in members:
                st.page_link(member, label=plain(member.title), width="stretch")


def _buttons(title: str, step: Any) -> None:
    """Their callbacks rerun the whole page, this fragment alone would not show what they did."""
    with st.container(horizontal=True):
        st.button(
            "Undo",
            icon=":material/undo:",
            disabled=not history.can_undo(title),
            on_click=_undo,
            args=(title,),
            key="undo",
            width="stretch",
            help="The setting before this one.",
        )
        st.button(
            "Reset",
            icon=":material/restart_alt:",
            disabled=step is None,
            on_click=_reset,
            args=(step,),
            key="reset",
            width="stretch",
            help="Every control of this page at its default.",
        )


def _undo(title: str) -> None:
    history.undo(title)
    st.rerun()


def _reset(step: Any) -> None:
    controls.reset(step)
    address.forget(controls.keys(step).values())
    guess.forget()
    st.rerun()


def _pinned(here: bench.Bench) -> None:
    pinned = pin.current(here)
    chosen = pin.chosen(here, pinned)
    told = f"Baseline pinned: {escape(pinned.label)}<br>" if chosen else ""
    st.html(f'<div class="mo-foot">{told}{escape(here.where)}</div>')
    if chosen:
        st.button("Unpin", on_click=pin.unpin, key="unpin", type="tertiary", icon=":material/keep_off:")
