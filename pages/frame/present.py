"""The view Present: named snapshots to step through, and one file to hand out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

import streamlit as st

from modelopt_core.steps.base import Step
from pages.draw.say import plain
from pages.state import address, controls, history


def bar(page: str, step: type[Step], fields: Mapping[str, str], export: Callable[[], str] | None) -> None:
    """One row: previous, next, take a snapshot, reset, export, leave.

    export: makes the file's text when asked for, in a thread that has no session; None where there is no result.
    """
    kept = history.snapshots(page)
    with st.container(horizontal=True, vertical_alignment="center", key="present-bar"):
        st.html(f'<header class="mo-head"><h1>{escape(page)}</h1></header>', width="content")
        for label, by, icon, key in (("Previous", -1, "left", "PageUp"), ("Next", 1, "right", "PageDown")):
            st.button(
                plain(label),
                icon=f":material/chevron_{icon}:",
                on_click=_go,
                args=(page, by),
                disabled=not kept,
                key=label.lower(),
                shortcut=key,
                help=plain(f"Key: {key}"),
            )
        with st.popover("Save snapshot", icon=":material/bookmark_add:"), st.form("snapshot", border=False):
            st.text_input("Name", key="snapshot-name", max_chars=60, placeholder=f"Snapshot {len(kept) + 1}")
            st.form_submit_button("Save", on_click=_save, args=(page, fields), key="save-snapshot")  # Enter, too
        st.button("Reset", icon=":material/restart_alt:", on_click=_reset, args=(step,), key="present-reset")
        st.download_button(
            "Export",
            export or "",
            "modelopt-result.html",
            "text/html",
            icon=":material/ios_share:",
            on_click="ignore",
            disabled=export is None,
            key="export",
            help="One HTML file: the numbers and where they come from.",
        )
        st.button("Leave", icon=":material/close:", on_click=_leave, key="leave", help="Back to the view Tune.")
        st.text(_place(page, fields))


def _place(page: str, fields: Mapping[str, str]) -> str:
    """Where in the row of snapshots the screen is, and whether it still shows what was kept."""
    kept, at = history.snapshots(page), st.session_state.get(f"{page}.snapshot")
    if not kept:
        return "No snapshot yet: set the dial, then save one."
    if at is None or at >= len(kept):
        return f"{len(kept)} snapshots"
    moved = "" if dict(kept[at].values) == history.values(fields) else ", moved since"
    return f"{at + 1} of {len(kept)}: {kept[at].name}{moved}"


def _go(page: str, by: int) -> None:
    history.go(page, by)
    st.rerun()


def _save(page: str, fields: Mapping[str, str]) -> None:
    history.snap(page, fields, st.session_state.get("snapshot-name", ""))
    st.session_state["snapshot-name"] = ""


def _reset(step: type[Step]) -> None:
    controls.reset(step)
    address.forget(controls.keys(step).values())
    st.rerun()


def _leave() -> None:
    st.session_state["view"] = "tune"
    st.rerun()
