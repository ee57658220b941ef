"""Charts beside the Dial: Plotly figures in the app's colours, light and dark. Score blue, size orange, latency green.

`figure` gives an empty frame with titled axes, the functions after it add one thing each, `draw` puts it on the page.
Plotly is imported at first use: a page whose tabs are closed does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit import config

if TYPE_CHECKING:
    import plotly.graph_objects as go

Numbers = Sequence[float]

ROLES = {"score": "blueColor", "size": "orangeColor", "latency": "greenColor", "lost": "redColor",
         "ink": "textColor", "muted": "grayColor", "line": "borderColor", "surface": "backgroundColor"}  # fmt: skip
HEIGHT = 320  # pixels
MARGIN = {"l": 8, "r": 8, "t": 12, "b": 8}
BAND = 0.14  # opacity, as the Dial's
MOST_POINTS = 5_000  # of one trace: more are not seen and cost time on every message


def dark() -> bool:
    """Does this browser show the dark theme?"""
    return st.context.theme.type == "dark"


def colour(role: str) -> str:
    """A role's colour from the theme: score, size, latency, ink, muted, line or surface."""
    return str(config.get_option(f"theme.{'dark' if dark() else 'light'}.{ROLES[role]}"))


def categorical(n: int) -> str:
    """Colour of the n-th thing that is neither score, size nor latency; after the last it begins again."""
    colours = config.get_option(f"theme.{'dark' if dark() else 'light'}.chartCategoricalColors")[3:]
    return str(colours[n % len(colours)])


def figure(x: str, y: str, *, height: int = HEIGHT, legend: bool = True, percent: str = "") -> go.Figure:
    """An empty figure. x, y: titles of the axes, with units; percent: axes whose numbers are shares, of "xy"."""
    import plotly.graph_objects as go

    axis = {"gridcolor": colour("line"), "zeroline": False, "automargin": True, "title_standoff": 8}
    shares = {name: {"tickformat": ".4~p"} if name in percent else {} for name in "xy"}
    return go.Figure(
        layout={
            "height": height,
            "margin": MARGIN,
            "showlegend": legend,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": {**axis, "title": x, **shares["x"]},
            "yaxis": {**axis, "title": y, **shares["y"]},
            "hovermode": "x unified",
            "uirevision": "kept",  # zoom and hidden traces outlive new data
        }
    )


def line(
    fig: go.Figure,
    name: str,
    x: Numbers,
    y: Numbers,
    paint: str,
    *,
    low: Numbers | None = None,
    high: Numbers | None = None,
    dash: str = "solid",
    width: float = 2,
    markers: bool = False,
) -> None:
    """A line, and the band between low and high where they are given. dash: `dot` for what is theoretical."""
    if low is not None and high is not None:
        fig.add_scatter(x=[*x, *reversed(x)], y=[*high, *reversed(low)], fill="toself", fillcolor=paint, opacity=BAND,
                        line_width=0, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=name)  # fmt: skip
    fig.add_scatter(x=list(x), y=list(y), name=name, mode="lines+markers" if markers else "lines", legendgroup=name,
                    line={"color": paint, "dash": dash, "width": width}, marker={"size": 6})  # fmt: skip


def bars(fig: go.Figure, name: str, x: Sequence[float | str], y: Numbers, paint: str, **more: Any) -> None:
    """Bars that touch where x are the middles of a histogram's bins."""
    fig.add_bar(x=list(x), y=list(y), name=name, marker={"color": paint, "line_width": 0}, **more)
    fig.update_layout(bargap=0.02 if len(x) > 12 else 0.25)


def heat(
    fig: go.Figure,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    paint: str,
    *,
    title: str = "",
    form: str = ".2f",
) -> None:
    """A matrix of numbers (len(rows), len(columns)): from the page's ground to `paint`, each number in its cell."""
    few = len(rows) * len(columns) <= 150
    fig.add_heatmap(
        x=list(columns), y=list(rows), z=[list(row) for row in values], xgap=2, ygap=2,
        colorscale=[[0, colour("surface")], [1, paint]], texttemplate=f"%{{z:{form}}}" if few else "",
        colorbar={"title": title, "thickness": 10, "outlinewidth": 0}, hoverongaps=False,
        hovertemplate=f"%{{y}} · %{{x}}: %{{z:{form}}}<extra></extra>",
    )  # fmt: skip
    fig.update_layout(hovermode="closest", xaxis_showgrid=False, yaxis_showgrid=False, yaxis_autorange="reversed")
    fig.update_xaxes(type="category")
    fig.update_yaxes(type="category")


def dots(
    fig: go.Figure, name: str, x: Numbers, y: Numbers, paint: str, *, text: Sequence[str] = (), size: float = 8
) -> None:
    """Points that no line joins. text: a word beside each."""
    fig.add_scatter(x=list(x), y=list(y), name=name, mode="markers+text" if text else "markers", text=list(text),
                    textposition="bottom center", marker={"color": paint, "size": size})  # fmt: skip


def sankey(nodes: Sequence[str], links: Sequence[tuple[int, int, float, str]]) -> go.Figure:
    """Streams between nodes: (from, to, how much, role of the colour)."""
    import plotly.graph_objects as go

    ground = f"rgba(128,128,128,{BAND})"
    sources, targets, values, roles = zip(*links, strict=True)
    return go.Figure(
        go.Sankey(
            node={"label": list(nodes), "color": colour("muted"), "thickness": 14, "pad": 22, "line": {"width": 0}},
            link={"source": sources, "target": targets, "value": values,
                  "color": [ground if role == "muted" else faded(role) for role in roles]},
            textfont={"color": colour("ink"), "size": 13},
        ),
        layout={"height": HEIGHT, "margin": {**MARGIN, "b": 28}},
    )  # fmt: skip


def logarithmic(fig: go.Figure, low: float, high: float, form: Callable[[float], str]) -> None:
    """A logarithmic x axis with ticks at 1, 2 and 5 times powers of ten. form: how a number is written."""
    ticks = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=[form(tick) for tick in ticks])


def faded(role: str) -> str:
    """A role's colour, half transparent."""
    red, green, blue = (int(colour(role).lstrip("#")[i : i + 2], 16) for i in (0, 2, 4))
    return f"rgba({red},{green},{blue},0.55)"


def mark(fig: go.Figure, x: float, text: str) -> None:
    """A vertical line at x: the setting on the screen, a cut, a budget."""
    fig.add_vline(x=x, line={"color": colour("ink"), "width": 1.5, "dash": "dash"}, annotation_text=text,
                  annotation_position="top right")  # fmt: skip


def draw(fig: go.Figure, key: str, alt: str, **more: Any) -> Any:
    """Put the figure on the page. alt: one sentence that says what it shows, for those who can't see it."""
    longest = max((len(trace.x) for trace in fig.data if getattr(trace, "x", None) is not None), default=0)
    if longest > MOST_POINTS:
        raise ValueError(f"a trace of {key!r} has {longest} points; at most {MOST_POINTS} are drawn")
    return st.plotly_chart(fig, key=key, alt=alt, config={"displayModeBar": False}, **more)


def tint(role: str, opacity: float) -> str:
    """A role's colour over whatever lies below it, as rgba(…)."""
    red, green, blue = (int(colour(role)[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:.3f})"
