"""The tab Check: does the integer runtime say what was simulated, and is it faster?"""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.measuring.runtime_agreement import Agreement
from pages.draw import charts, units
from pages.work.trial import Trial

HEIGHT = 170
WHY = {
    True: "Integers pay where layers are large: rounding inputs to integers and outputs back takes time of its own, "
    "which a small layer does not win back.",
    False: "This runtime multiplies 8-bit integers and, in linear layers, 4-bit weights. Codes of other widths are "
    "read back into floats at loading: they save space, not time.",
}


def draw(trial: Trial) -> None:
    """Left the answers of PyTorch on the points of the grids against those of ONNX Runtime, right both latencies."""
    found = mo.agreement(trial.after, trial.bench.workload)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _answers(found)
    with right:
        _latency(trial, "int8" in found.runtime or "4-bit" in found.runtime)


def _answers(found: Agreement) -> None:
    kind = (
        "its own integer arithmetic" if found.integer else "floats, wholly or in part: nothing is proved for integers"
    )
    share, interval = units.percent(found.share.value), units.percent_interval(found.share)
    rows = (
        ("what ran", f"{found.runtime}: {kind}"),
        ("same answer", f"{share} of {units.whole(found.share.n)} examples of val, 95 % {interval}"),
        ("largest difference of two logits", f"{units.percent(found.largest)} of the largest logit"),
        ("score, simulated in PyTorch", units.percent(found.before)),
        ("score, in ONNX Runtime", units.percent(found.after)),
        *((f"{layer} runs on floats", why) for layer, why in found.reasons),
    )
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in rows)
    st.html(f'<div class="mo-scroll mo-wrap"><table class="mo-table"><tbody>{body}</tbody></table></div>')


def _latency(trial: Trial, fast: bool) -> None:
    """Median and quartiles before and now, timed in turn."""
    measured = trial.measurement
    rows = {"now": measured.latency_ms, "before": measured.baseline_ms}  # bottom to top
    fig = charts.figure("latency of one example, ms", "", height=HEIGHT, legend=False)
    for opacity, (name, ms) in zip((1.0, 0.5), rows.items(), strict=True):
        spread = {"type": "data", "array": [ms.high - ms.value], "arrayminus": [ms.value - ms.low],
                  "color": charts.colour("ink"), "thickness": 1.5}  # fmt: skip
        fig.add_bar(x=[ms.value], y=[name], orientation="h", error_x=spread, name=name,
                    marker={"color": charts.tint("latency", opacity), "line_width": 0})  # fmt: skip
    fig.update_layout(hovermode="closest", bargap=0.4, yaxis_showgrid=False)
    now = f"{units.milliseconds(measured.latency_ms.value)}, {units.milliseconds_interval(measured.latency_ms)}"
    charts.draw(fig, "latency-chart", f"Latency before {units.milliseconds(measured.baseline_ms.value)}, now {now}")
    st.html(f'<p class="mo-foot">{units.speed(measured.speedup).capitalize()}. {WHY[fast]}</p>')
