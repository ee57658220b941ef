"""The view Present: named snapshots to step through, and one file to hand out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from modelopt_core.step import Transform
from pages.shared import controls, history, report
from pages.shared.trial import Trial


def bar(page: str, step: type[Transform], fields: Mapping[str, str], trial: Callable[[], Trial]) -> None:
    """One row: previous, which snapshot, next, take one, reset, export."""
    kept = history.snapshots(page)
    at = st.session_state.get(f"{page}.snapshot")
    with st.container(horizontal=True, vertical_alignment="center", key="present-bar"):
        st.button("Previous", icon=":material/chevron_left:", on_click=history.go, args=(page, -1),
                  disabled=not kept, key="previous", shortcut="PageUp")  # fmt: skip
        st.button("Next", icon=":material/chevron_right:", on_click=history.go, args=(page, 1),
                  disabled=not kept, key="next", shortcut="PageDown")  # fmt: skip
        with st.popover("Save snapshot", icon=":material/bookmark_add:"):
            st.text_input("Name", key="snapshot-name", max_chars=60, placeholder=f"Snapshot {len(kept) + 1}")
            st.button("Save", on_click=_save, args=(page, fields), key="save-snapshot")
        st.button("Reset", icon=":material/restart_alt:", on_click=controls.reset, args=(step,), key="present-reset")
        st.download_button("Export", lambda: report.html(trial()), "modelopt-result.html", "text/html",
                           icon=":material/ios_share:", on_click="ignore", key="export",
                           help="One HTML file: the numbers and where they come from.")  # fmt: skip
        if kept and at is not None and at < len(kept):
            st.text(f"{at + 1} of {len(kept)}: {kept[at].name}")
        else:
            st.text("No snapshot yet: set the dial, then save one." if not kept else f"{len(kept)} snapshots")


def _save(page: str, fields: Mapping[str, str]) -> None:
    history.snap(page, fields, st.session_state.get("snapshot-name", ""))
    st.session_state["snapshot-name"] = ""
