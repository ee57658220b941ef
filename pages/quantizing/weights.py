"""The tab Weights: one layer's weights with the points that they went to, and what each observer would have done."""

from __future__ import annotations

import streamlit as st

from modelopt_core.quantize import Scheme
from modelopt_core.quantize.inspect import histogram, largest, names, observed
from pages.shared import charts
from pages.shared.trial import Trial

HEIGHT = 300


def draw(trial: Trial) -> None:
    """Left the histogram, right the observers."""
    step, start = trial.step, trial.bench.model
    layers = names(start)
    layer = st.segmented_control("Layer", layers, default=largest(start), required=True, key=f"weights {trial.subject}")
    left, right = st.columns([3, 2], gap="large")
    with left:
        found = histogram(start, trial.after, layer)
        fig = charts.figure("weight", "how many", height=HEIGHT)
        charts.bars(fig, "before", found.centers, found.before, charts.colour("muted"))
        charts.bars(fig, "after", found.centers, found.after, charts.categorical(0))
        fig.update_layout(barmode="overlay")
        fig.update_yaxes(type="log", dtick=1)
        for point in found.points:
            fig.add_vline(x=point, line={"color": charts.colour("line"), "width": 1}, layer="below")
        points = f"; the lines are its {len(found.points)} values" if found.points else ""
        charts.draw(fig, "weights-chart", f"Histogram of the weights of {layer} before and after{points}")
    with right:
        if step.scheme == "codebook":
            st.caption("Shared values are found by k-means; no observer is asked.")
            return
        scheme = Scheme(dict(step.layer_bits).get(layer, step.bits), step.scheme, step.per, step.observer, step.group)
        if scheme.bits > 16:
            st.caption("This layer keeps its floats.")
            return
        noise = observed(start, layer, scheme)
        fig = charts.figure("signal to noise of this layer, dB", "", height=HEIGHT, legend=False)
        paints = [charts.colour("ink" if name == step.observer else "muted") for name in noise]
        fig.add_bar(x=list(noise.values()), y=list(noise), orientation="h", marker={"color": paints, "line_width": 0})
        fig.update_layout(hovermode="closest", bargap=0.35)
        charts.draw(fig, "observers-chart", f"Signal to noise of {layer}, to nearest, by observer")
