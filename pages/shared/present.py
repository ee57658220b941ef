"""The view Present: named snapshots to step through, and one file to hand out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

import streamlit as st

from modelopt_core.step import Transform
from pages.shared import controls, history


def bar(page: str, step: type[Transform], fields: Mapping[str, str], export: Callable[[], str]) -> None:
    """One row: previous, next, take a snapshot, reset, export, leave. export: makes the file's text when asked for."""
    kept = history.snapshots(page)
    at = st.session_state.get(f"{page}.snapshot")
    with st.container(horizontal=True, vertical_alignment="center", key="present-bar"):
        st.html(f'<header class="mo-head"><h1>{escape(page)}</h1></header>', width="content")
        st.button("Previous", icon=":material/chevron_left:", on_click=history.go, args=(page, -1),
                  disabled=not kept, key="previous", shortcut="PageUp")  # fmt: skip
        st.button("Next", icon=":material/chevron_right:", on_click=history.go, args=(page, 1),
                  disabled=not kept, key="next", shortcut="PageDown")  # fmt: skip
        with st.popover("Save snapshot", icon=":material/bookmark_add:"):
            st.text_input("Name", key="snapshot-name", max_chars=60, placeholder=f"Snapshot {len(kept) + 1}")
            st.button("Save", on_click=_save, args=(page, fields), key="save-snapshot")
        st.button("Reset", icon=":material/restart_alt:", on_click=controls.reset, args=(step,), key="present-reset")
        st.download_button("Export", export, "modelopt-result.html", "text/html",
                           icon=":material/ios_share:", on_click="ignore", key="export",
                           help="One HTML file: the numbers and where they come from.")  # fmt: skip
        st.button("Leave", icon=":material/close:", on_click=_leave, key="leave", help="Back to the view Tune.")
        if kept and at is not None and at < len(kept):
            st.text(f"{at + 1} of {len(kept)}: {kept[at].name}")
        else:
            st.text("No snapshot yet: set the dial, then save one." if not kept else f"{len(kept)} snapshots")


def _leave() -> None:
    st.session_state["view"] = "tune"


def _save(page: str, fields: Mapping[str, str]) -> None:
    history.snap(page, fields, st.session_state.get("snapshot-name", ""))
    st.session_state["snapshot-name"] = ""
