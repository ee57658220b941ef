"""The tab File: what its bytes are, beside the bound for them, and the file itself."""

from __future__ import annotations

import streamlit as st

from modelopt_core.files import mopt
from pages.draw import charts, units
from pages.tabs import downloads
from pages.work.trial import Trial

HEIGHT = 220
OPACITY = (1.0, 0.7, 0.45, 0.25)


def draw(trial: Trial) -> None:
    """Two stacked bars, before and after, and a line at the bound."""
    found = [("before", mopt.sizes(trial.bench.model)), ("after", mopt.sizes(trial.after))]
    fig = charts.figure("bytes", "", height=HEIGHT)
    for part, opacity in zip(found[1][1].parts, OPACITY, strict=False):
        sizes = [size.parts[part] for _, size in found]
        fig.add_bar(x=sizes, y=[name for name, _ in found], name=part, orientation="h",
                    marker={"color": charts.tint("size", opacity), "line_width": 0})  # fmt: skip
    fig.update_layout(barmode="stack", hovermode="closest", bargap=0.4, yaxis_showgrid=False)
    fig.update_layout(yaxis_autorange="reversed", legend_traceorder="normal")
    after = found[1][1]
    x, line = after.entropy_bytes, {"color": charts.colour("ink"), "width": 2, "dash": "dot"}
    fig.add_shape(type="line", x0=x, x1=x, y0=0.6, y1=1.4, line=line)  # across the second bar
    fig.add_annotation(x=x, y=1.4, text=f"bound {units.size(x)}", showarrow=False, xanchor="left", yanchor="middle")
    alt = f"Bytes of the file before and after, by what they are; the bound is {after.entropy_bytes}"
    charts.draw(fig, "file-chart", alt)
    st.html(
        f'<p class="mo-foot">The file has {units.whole(after.size_bytes)} bytes. The entropy of its symbols and '
        f"its raw numbers, {units.whole(after.entropy_bytes)} bytes, is the least that a static code of each tensor "
        "needs; header and tables come on top.</p>"
    )
    downloads.row(trial)
