"""Home's three doors: each is one click from a live Dial, in the view made for it."""

from __future__ import annotations

from html import escape

import streamlit as st

from pages.draw.say import plain

DOORS = (
    ("learn", "Teach", "Ask first, reveal after the drag. Formula, source and the reason why stay beside the curve."),
    ("tune", "Tune", "All controls, layers, changed answers, a table of every setting tried. Pin one, compare two."),
    ("present", "Present", "Large type, named snapshots to step through, one file to hand out with its provenance."),
)


def draw(page: str) -> None:
    """Three equal cards; the button sets the view and opens the page."""
    for column, (view, title, text) in zip(st.columns(3, gap="medium"), DOORS, strict=True):
        with column.container(border=True, key=f"door-{view}", height="stretch"):
            st.html(f'<div class="mo-door"><h2>{escape(title)}</h2><p>{escape(text)}</p></div>')
            if st.button(plain(f"Open {view.capitalize()}"), key=f"open-{view}", on_click=_look, args=(view,),
                         type="primary" if view == "tune" else "secondary", width="stretch"):  # fmt: skip
                st.switch_page(page)


def _look(view: str) -> None:
    st.session_state["view"] = view
