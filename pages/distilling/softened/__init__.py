"""The tab Softened: what the teacher says at a temperature. It moves while the Dial is dragged, see softened.js."""

from __future__ import annotations

import math
from pathlib import Path

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.distill import telling
from pages.draw import charts
from pages.state.setting import Setting
from pages.tabs.examples import shown

HERE = Path(__file__).parent
EXAMPLES, CHARACTERS = 14, 60
ANY = "any class"

_component = st.components.v2.component(
    "modelopt_softened",
    html=(HERE / "softened.html").read_text("utf-8"),
    css=(HERE / "softened.css").read_text("utf-8"),
    js=(HERE / "softened.js").read_text("utf-8"),
)


def draw(setting: Setting) -> None:
    """Examples to pick, classes that the teacher thinks alike, entropy against T."""
    here, step = setting.bench, setting.step
    assert isinstance(step, mo.Distill)
    workload, knob = here.workload, type(step).knob("temperature")
    said = mo.predictions(here.model, workload, runtime=here.runtime, device=here.device)
    labels = workload.val.targets
    wanted = st.selectbox("Examples", (ANY, *workload.labels), key="softened-class", width=150,
                          help="Which to choose from: mostly those that the teacher is least sure of.")  # fmt: skip
    of_class = None if wanted == ANY else workload.labels.index(wanted)
    stops = tuple(knob.stops)
    entropy, alike = _stops(here.key, said.outputs.logits, labels, stops)
    _component(
        key="softened",
        data={
            "symbol": knob.symbol,
            "temperature": step.temperature,
            "alpha": step.alpha,
            "softens": bool(mo.LOSSES[step.loss]["softens"]),
            "labels": list(workload.labels),
            "stops": list(stops),
            "entropy": entropy,
            "alike": alike,
            "most": math.log2(len(workload.labels)),
            "paint": charts.categorical(0),
            "alt": f"Mean entropy of what the teacher says, from {entropy[0]:.2f} bits at T = {stops[0]:g} "
            f"to {entropy[-1]:.2f} bits at T = {stops[-1]:g}",
            "examples": [
                {
                    "id": i,
                    "truth": int(labels[i]),
                    "html": shown(workload, i, CHARACTERS),
                    "logits": [round(x, 3) for x in said.outputs.logits[i].tolist()],
                }
                for i in telling(said.outputs.logits, EXAMPLES, labels, of_class).tolist()
            ],
        },
    )


@st.cache_data(show_spinner=False, max_entries=20)
def _stops(key: str, _logits: object, _labels: object, stops: tuple[float, ...]) -> tuple[list[float], list[list[int]]]:
    """At every stop of the Dial: mean entropy in bits; (K · K) per cent of likeness. key: whose logits they are."""
    found = [mo.soften(_logits, _labels, t) for t in stops]  # type: ignore[arg-type]
    return [round(f.entropy_bits, 4) for f in found], [
        [round(100 * x) for x in f.alike.flatten().tolist()] for f in found
    ]
