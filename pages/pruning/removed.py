"""The tab Removed: what was asked for against what went, in weights, multiply–accumulates and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.draw import charts, units
from pages.state.knob import of_field
from pages.work import trial
from pages.work.trial import Trial

STEPS = 50  # of the theoretical line


@dataclass(frozen=True)
class Gone:
    """Shares of the model as it came that are gone, each in [0, 1]; bytes may grow, then it is below 0."""

    weights: float
    macs: float
    size: float


def gone(before: Measurement, after: Measurement) -> Gone:
    """What one setting removed: weights that are zero now count as removed."""
    return Gone(
        1 - after.nonzero / before.nonzero,
        1 - after.macs / max(1, before.macs),
        1 - after.size_bytes / before.size_bytes,
    )


def theory(ratio: float, granularity: str) -> float:
    """The share of a layer's weights that goes in theory: with channels, its inputs lose the share p as well."""
    return 1 - (1 - ratio) ** 2 if granularity == "channel" else ratio


def draw(trial: Trial) -> None:
    """Left this setting as bars, right all settings of the Dial's curve."""
    assert isinstance(trial.step, mo.Prune)
    bars, curve = st.columns([2, 3], gap="large")
    with bars:
        st.html(_bars(trial.step, gone(trial.start, trial.on_curve)))
        st.html(f'<p class="mo-foot">{escape(_why(trial.step))}</p>')
    with curve:
        _curve(trial, trial.step)


def _bars(step: mo.Prune, found: Gone) -> str:
    rows = (
        ("requested", step.ratio, "ink"),
        ("weights", found.weights, "ink"),
        ("MACs", found.macs, "ink"),
        ("bytes of the file", found.size, "size"),
    )
    body = "".join(
        f'<tr><td>{name}</td><td class="mo-wide"><span class="mo-bar mo-{kind}">'
        f'<i style="width:{100 * min(1.0, max(0.0, share)):.1f}%"></i></span></td>'
        f'<td class="mo-number">{units.percent(share)}</td></tr>'
        for name, share, kind in rows
    )
    head = "<thead><tr><th>removed</th><td></td><td></td></tr></thead>"
    return f'<table class="mo-table">{head}<tbody>{body}</tbody></table>'


def _why(step: mo.Prune) -> str:
    """Why the numbers differ from what was asked for."""
    own = " Layers with a ratio of their own, or frozen, do not follow p." if step.ratios or step.frozen else ""
    if step.granularity == "channel":
        return (
            "A layer that loses the share p of its channels loses that share of its outputs and of its inputs: "
            f"1 − (1 − p)² of its weights in theory, {units.percent(theory(step.ratio, 'channel'))} here. The first "
            f"layer keeps its inputs, the last its outputs, and only whole channels go.{own}"
        )
    return (
        "Removed weights are zeros: biases and norms stay, every multiplication is still made, and the file shrinks "
        f"by what its code makes of zeros.{own}"
    )


def _curve(here: Trial, step: mo.Prune) -> None:
    points = sorted(trial.sweep(here, of_field(step, "ratio")).points, key=lambda point: point.value)
    found = [(point.value, gone(here.start, point.measurement)) for point in points]
    x = [value for value, _ in found]
    fig = charts.figure("requested ratio p", "removed", percent="y", height=300)
    grid = [i / STEPS for i in range(STEPS + 1)]
    formula = "1 − (1 − p)²" if step.granularity == "channel" else "p"
    theoretical = [theory(p, step.granularity) for p in grid]
    charts.line(fig, f"{formula}, theoretical", grid, theoretical, charts.colour("muted"), dash="dot")
    charts.line(fig, "weights", x, [g.weights for _, g in found], charts.colour("ink"), width=4)
    charts.line(fig, "MACs", x, [g.macs for _, g in found], charts.categorical(0))
    charts.line(fig, "bytes of the file", x, [g.size for _, g in found], charts.colour("size"))
    charts.mark(fig, step.ratio, "")
    alt = f"Share of weights, MACs and bytes removed against the requested ratio, beside {formula}"
    charts.draw(fig, "removed-chart", alt)
