"""The tab Cost: score against mean cost for every setting worth having, and the best one for a target."""

from __future__ import annotations

import math
from itertools import pairwise

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.cascade import Choice, best_thresholds, front
from pages.combining import said, stages
from pages.draw import charts, say, units
from pages.draw.say import plain
from pages.work.trial import Trial

UNITS = {"MACs": "multiply–accumulates", "ms": "milliseconds, one thread"}

LEAST = 1e-6  # of a cost: a difference of two timings may be none
TOLD = {"MACs": " MACs", "ms": ""}


def draw(trial: Trial) -> None:
    """The front and the models alone; below, a target."""
    unit = st.segmented_control("Cost", list(UNITS), default="MACs", key="Cascade.cost", required=True)
    confidence, scores = said.gates(trial)
    costs, alone = _costs(trial, unit)
    best = said.kept(trial, f"front {unit} {trial.step.confidence} {trial.step.calibrate}",
                     lambda: front(confidence, scores, costs))  # fmt: skip
    now, names = stages.happened(trial), said.names(trial)
    score, cost = float(now.scores.mean()), now.cost(costs)
    chart, target = st.columns([3, 2], gap="large")
    with chart:
        fig = charts.figure(f"mean cost of an example, {UNITS[unit]}", "score on val", percent="y")
        charts.line(fig, "best thresholds", [c.cost for c in best], [c.score for c in best], charts.colour("score"))
        charts.dots(fig, "each model alone", alone, scores.mean(1).tolist(), charts.colour("muted"), text=names)
        charts.dots(fig, "this setting", [cost], [score], charts.colour("ink"), size=11)
        fig.update_traces(line_shape="hv", selector={"name": "best thresholds"})
        charts.logarithmic(fig, min(alone), max(*alone, cost), lambda tick: _cost(tick, unit))
        charts.draw(fig, f"cost-chart-{unit}", f"Score against mean cost: {len(best)} settings that no other beats")
    with target:
        st.html(
            f'<p class="mo-foot"><b>This setting</b>: {units.percent(score)} at {_cost(cost, unit)}{TOLD[unit]}.</p>'
        )
        _target(confidence, scores, costs, unit, score)


def _target(confidence: object, scores: object, costs: list[float], unit: str, score: float) -> None:
    """A score to reach or a cost to keep to, and a button that takes the thresholds."""
    kind = st.segmented_control("Find thresholds for", ["score", "cost"], default="score", key="Cascade.target",
                                required=True)  # fmt: skip
    if kind == "score":
        asked = st.number_input("score of at least, %", 0.0, 100.0, value=math.floor(1e4 * score) / 100, step=0.05,
                                format="%.2f", key="Cascade.target.score")  # fmt: skip
        goal = {"score": asked / 100}
    else:
        first, last, form = costs[0], sum(costs), "%.0f" if unit == "MACs" else "%.4f"
        asked = st.number_input(plain(f"mean cost of at most, {unit}"), first, last, value=(first * last) ** 0.5,
                                key=f"Cascade.target.{unit}", format=form)  # fmt: skip
        goal = {"cost": asked}
    try:
        found: Choice = best_thresholds(confidence, scores, costs, **goal)  # type: ignore[arg-type]
    except ModelOptError as error:
        say.caption(error)
        return
    told = ", ".join(f"{t:.4f}" for t in found.thresholds)
    st.html(
        f'<p class="mo-foot"><b>Found</b>: {units.percent(found.score)} at {_cost(found.cost, unit)}{TOLD[unit]}, '
        f"thresholds {told}. Val chose them; test would say a little less.</p>"
    )
    st.button("Take these thresholds", type="primary", key="Cascade.take", on_click=stages.take,
              args=(tuple(round(t, 6) for t in found.thresholds),))  # fmt: skip


def _costs(trial: Trial, unit: str) -> tuple[list[float], list[float]]:
    """What each stage adds, and what it costs alone; exits share what comes before, so alone they cost all of it."""
    here = trial.bench
    found = [mo.measure(m, here.workload, runtime=here.runtime, device=here.device) for m in said.stages(trial)]
    alone = [float(m.macs) if unit == "MACs" else m.latency_ms.value for m in found]
    if trial.step.stages == "models":
        return alone, alone
    return [alone[0], *(max(b - a, LEAST) for a, b in pairwise(alone))], alone


def _cost(value: float, unit: str) -> str:
    return units.short(value) if unit == "MACs" else units.milliseconds(value)
