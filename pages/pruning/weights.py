"""The tab Weights: one layer from inside, the distribution with its cut, and a picture of what goes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import streamlit as st
from numpy.typing import NDArray

import modelopt_core as mo
from modelopt_core.steps.prune import Reveal, reveal, units
from pages.draw import charts
from pages.pruning import picture
from pages.state.setting import Setting

BINS = 48
MOST_BARS = 600  # channels drawn one by one


@dataclass(frozen=True)
class Bars:
    """What stays and what goes, bar by bar. cuts: where the line is drawn."""

    x: list[float]
    stays: list[float]
    goes: list[float]
    cuts: tuple[float, ...]
    title: str
    said: str


def draw(setting: Setting) -> None:
    """Left the distribution, right the picture."""
    here, step = setting.bench, setting.step
    assert isinstance(step, mo.Prune)
    names = [unit.name for unit in units(here.model, here.workload.example, "weight")]
    left, right = st.columns([3, 2], gap="large")
    with right:
        layer = st.selectbox("Layer", names, key="Prune.weights.layer", width=220)
        found = reveal(here.model, here.workload, step, layer)
        _picture(layer, found, step.rounds > 1)
    with left:
        _distribution(layer, step, found)


def bars(step: mo.Prune, found: Reveal) -> Bars:
    """Channels one by one; weights by value where magnitude alone decides (or no score does), else by score."""
    scores, goes = found.scores.numpy(), found.goes.numpy()
    if step.granularity == "channel" and len(scores):
        return ranked(scores, goes, found.cut)
    values, gone = found.weight.flatten().numpy(), found.gone.flatten().numpy()
    if found.magnitude_cut is not None:
        cuts, said = (-found.magnitude_cut, found.magnitude_cut), "Magnitude decides: what lies between the lines goes."
        return Bars(*histogram(values, gone), cuts, "weight", said)
    if found.cut is not None:
        said = "What scores below the line goes, whatever its size."
        return Bars(*histogram(scores, goes), (found.cut,), f"score by {step.criterion}", said)
    whole = {"n:m": f"Each run of {step.size} decides for itself: there is no single cut.",
             "block": "Whole blocks go, by their mean score: single weights have no cut."}  # fmt: skip
    said = whole.get(step.granularity, "Inputs of this layer go with the channels before it.")
    return Bars(*histogram(values, gone), (), "weight", said if gone.any() else "Nothing of this layer goes.")


def ranked(scores: NDArray[np.float32], goes: NDArray[np.bool_], cut: float | None) -> Bars:
    """A bar a channel, the lowest first; neighbours are averaged where there are more than can be seen."""
    order = np.argsort(scores, kind="stable")
    step = -(-len(order) // MOST_BARS)
    runs = [order[i : i + step] for i in range(0, len(order), step)]
    x = [1.0 + step * i for i in range(len(runs))]
    stays, leaves = ([float((scores[r] * part[r]).mean()) for r in runs] for part in (~goes, goes))
    cuts = (float(goes.sum()) + 0.5,) if cut is not None else ()
    none = "No channel of this layer goes."
    said = f"{goes.sum()} of {len(goes)} channels go: those with the lowest scores." if goes.any() else none
    return Bars(x, stays, leaves, cuts, "channel, by score", said)


def histogram(values: NDArray[np.float32], gone: NDArray[np.bool_]) -> tuple[list[float], list[float], list[float]]:
    """Middles of the bins, how many of (N,) values stay in each, and how many go."""
    edges = np.histogram_bin_edges(values, BINS)
    stays, goes = (np.histogram(values[part], edges)[0] for part in (~gone, gone))
    return ((edges[:-1] + edges[1:]) / 2).tolist(), stays.tolist(), goes.tolist()


def _distribution(layer: str, step: mo.Prune, found: Reveal) -> None:
    shown = bars(step, found)
    channels = shown.title.startswith("channel")
    fig = charts.figure(shown.title, f"score by {step.criterion}" if channels else "weights", height=300)
    charts.bars(fig, "stays", shown.x, shown.stays, charts.colour("muted"))
    charts.bars(fig, "goes", shown.x, shown.goes, gone_colour())
    fig.update_layout(barmode="stack")
    for cut in shown.cuts:
        charts.mark(fig, cut, "")
    charts.draw(fig, "weights-chart", f"{layer}: what stays and what goes, by {shown.title}. {shown.said}")
    st.html(f'<p class="mo-foot">{escape(shown.said)}</p>')


def gone_colour() -> str:
    """What goes has one colour, in the chart and in the picture."""
    return charts.categorical(1)


def _picture(layer: str, found: Reveal, rounds: bool) -> None:
    weight, gone = found.weight.numpy(), found.gone.numpy()
    source = picture.png(weight, gone, charts.colour("ink"), gone_colour())
    shape = " × ".join(map(str, weight.shape))
    share = f"{100 * gone.mean():.1f}"
    alt = f"Weights of {layer}, {shape}: {share} % of them go"
    tiles = "a tile a kernel, a row an output" if weight.shape[1] > 1 else "a tile a filter"
    how = tiles if weight.ndim > 2 else "outputs by inputs, the longer side across"
    more = " In rounds, later choices depend on what is left; shown is what one shot removes." if rounds else ""
    st.html(
        f'<figure class="mo-weights"><img alt="{escape(alt)}" src="{source}"><figcaption class="mo-foot">'
        f"<b>{escape(layer)}</b>, {shape}: {how}; the stronger, the larger, "
        f'<b style="color:{gone_colour()}">painted over</b> is what goes, {share} %.{more}</figcaption></figure>'
    )
