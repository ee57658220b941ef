"""The tab Weights: a layer's weights with the grid over them, which follows the Dial, and what each observer would do.

The picture is drawn in the browser (weights.js) from the results that are known at every stop of the Dial.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import streamlit as st
from torch import nn

from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.steps.base import kept
from modelopt_core.steps.quantize import Scheme
from modelopt_core.steps.quantize.inspect import largest, names, observed
from modelopt_core.steps.quantize.spread import spread
from pages.draw import charts
from pages.draw.say import plain
from pages.work.trial import Trial

HERE = Path(__file__).parent
HEIGHT, BESIDE = 310, 340  # of the histogram and of the chart beside it, in pixels

_component = st.components.v2.component(
    "modelopt_weights",
    html=(HERE / "weights.html").read_text("utf-8"),
    css=(HERE / "weights.css").read_text("utf-8"),
    js=(HERE / "weights.js").read_text("utf-8"),
)


def draw(trial: Trial) -> None:
    """Left the histogram, right the observers."""
    start = trial.bench.model
    layers = names(start)
    layer = st.segmented_control("Layer", layers, default=largest(start), required=True, key=f"weights {trial.subject}",
                                 format_func=plain)  # fmt: skip
    left, right = st.columns([3, 2], gap="large")
    with left:
        _component(key="weights-chart", data=_picture(trial, layer))
    with right:
        _observers(trial, layer)


def results(trial: Trial) -> dict[int, nn.Module]:
    """Bits → the result, for this setting and every other stop of the Dial whose result is at hand."""
    here, step = trial.bench, trial.step
    others = [step.changed(bits=int(bits)) for bits in type(step).knob("bits").stops]
    known = [other for other in others if kept(other.key([here.model], here.workload))]
    return {other.bits: other.apply(here.model, here.workload) for other in known} | {step.bits: trial.after}


def _picture(trial: Trial, layer: str) -> dict[str, Any]:
    """What the browser needs, some 15 kB."""
    step, models = trial.step, results(trial)
    unit = "tensor" if step.scheme == "codebook" else step.per
    key = ("spread", identity.key(trial.bench.model), layer, *(identity.key(model) for model in models.values()))
    found = STORE.get(key, lambda: spread(trial.bench.model, models, layer, unit), lambda _: 2**15)
    shown = found.at[step.bits]
    noise = "no error" if shown.snr_db is None else f"signal to noise {shown.snr_db:.1f} dB"
    return {
        **asdict(found),
        "bits": step.bits,
        "symbol": type(step).knob("bits").symbol,
        "height": HEIGHT,
        "paint": charts.categorical(0),
        "alt": f"Histogram of the weights of {layer} before and after, over the {shown.levels} points that they may "
        f"have; {noise}",
    }


def _observers(trial: Trial, layer: str) -> None:
    """Signal to noise on the grid that each observer would choose."""
    step = trial.step
    if step.scheme == "codebook":
        st.caption("Shared values are found by k-means; no observer is asked.")
        return
    scheme = Scheme(dict(step.layer_bits).get(layer, step.bits), step.scheme, step.per, step.observer, step.group)
    if scheme.bits > 16:
        st.caption("This layer keeps its floats.")
        return
    key = ("observed", identity.key(trial.bench.model), layer, scheme)
    noise = STORE.get(key, lambda: observed(trial.bench.model, layer, scheme))
    fig = charts.figure("signal to noise of this layer, dB", "", height=BESIDE, legend=False)
    paints = [charts.colour("ink" if name == step.observer else "muted") for name in noise]
    fig.add_bar(
        x=list(noise.values()),
        y=list(noise),
        orientation="h",
        marker={"color": paints, "line_width": 0},
        texttemplate="%{x:.1f}",
        textposition="inside",
        insidetextanchor="end",
    )
    fig.update_layout(hovermode="closest", bargap=0.35)
    charts.draw(fig, "observers-chart", f"Signal to noise of {layer}, to nearest, by observer")
