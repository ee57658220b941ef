"""The tab Article: q = round(y · Q) + z, read back as (q − z) / Q, and the error between."""

from __future__ import annotations

import streamlit as st

from modelopt_core.steps.quantize.inspect import affine_curve
from pages.draw import charts, say
from pages.state.setting import Setting

EXAMPLE = 127.5
SCALE, ZERO = "article scale", "article zero"


def draw(_: Setting) -> None:
    """Left the form and its two numbers, right the error over y from −1 to 1."""
    words, chart = st.columns([2, 3], gap="large")
    with words:
        st.html(
            '<p class="mo-foot"><b>The article writes</b> q = round(y · Q) + z and reads back (q − z) / Q: its scale Q '
            "is one over the step s of this page. With Q = z = 127.5, values from −1 to 1 fill 0 to 255; as z is no "
            "whole number, q is none either, so a file would need another z, such as 128.</p>"
        )
        scale = st.number_input("Scale Q", 0.5, 1000.0, 16.0, key=SCALE)
        zero = st.number_input("Zero point z", -1000.0, 1000.0, 16.0, key=ZERO)
        st.button("Set the article's example", icon=":material/play_arrow:", type="primary", on_click=_set)
    with chart:
        y, codes, error = affine_curve(scale, zero)
        fig = charts.figure("y", "read back − y", height=280, legend=False)
        charts.line(fig, "error", y, error, charts.colour("ink"), width=1.5)
        charts.draw(fig, "article-chart", f"Error of y read back, for Q = {scale:g} and z = {zero:g}")
        say.caption(f"q runs from {codes[0]:g} to {codes[-1]:g}; no value is more than half a step, 1 / (2 Q), off.")


def _set() -> None:
    """Callback: the example's two numbers."""
    st.session_state[SCALE] = st.session_state[ZERO] = EXAMPLE
