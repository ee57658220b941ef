"""The tab Combiner: the head as a picture, and how strongly the folds want it pulled towards the average."""

from __future__ import annotations

import math
from html import escape

import streamlit as st

from modelopt_core.steps.fuse import Learned, learned, reads
from pages.draw import charts, say
from pages.fusing import turning
from pages.state import stack
from pages.work.trial import Trial


def draw(trial: Trial) -> None:
    """Left the weights, right the choice of the pull."""
    found = learned(trial.after)
    if found is None:
        st.caption("Weights are merged without a head. Fuse outputs or features, and the head is shown here.")
        return
    picture, choice = st.columns([3, 2], gap="large")
    with picture:
        _picture(trial)
    with choice:
        _choice(trial, found)


def _picture(trial: Trial) -> None:
    """(K, P): a row an answer, a column a number that the head reads."""
    labels, names = trial.bench.workload.labels, stack.names(trial.members)
    parts = reads(trial.after)
    matrix = [row for part in parts for row in part.tolist()]  # a row a number that is read
    told = [
        f"{name} {labels[i]}" if trial.step.of == "outputs" else f"{name}, unit {i + 1}"
        for name, part in zip(names, parts, strict=True)
        for i in range(len(part))
    ]
    rows = [list(row) for row in zip(*matrix, strict=True)]
    most = max(abs(value) for row in rows for value in row)
    fig = charts.figure("what the head reads", "answer", legend=False)
    charts.heat(fig, list(labels), told, rows, charts.categorical(0), form=".2f")
    fig.update_traces(zmin=-most, zmax=most, texttemplate="", xgap=0, ygap=0,
                      colorscale=[[0, charts.colour("lost")], [0.5, charts.colour("surface")],
                                  [1, charts.categorical(0)]])  # fmt: skip
    fig.update_xaxes(showticklabels=len(told) <= 32, tickangle=-90)
    for edge in _edges([len(part) for part in parts]):
        fig.add_vline(x=edge, line={"color": charts.colour("ink"), "width": 1})
    charts.draw(fig, "combiner-weights", f"Weights of the head: {len(labels)} answers, {len(told)} numbers read")
    what = "log-probabilities that members give" if trial.step.of == "outputs" else "units that last layers read"
    say.caption(f"What speaks for an answer, and in red what speaks against it: {what}. The bias is not shown.")


def _edges(lengths: list[int]) -> list[float]:
    """Where one member ends and the next begins, between two columns."""
    return [sum(lengths[: i + 1]) - 0.5 for i in range(len(lengths) - 1)]


def _choice(trial: Trial, found: Learned) -> None:
    tried = sorted((strength, loss) for strength, loss in found.tried if math.isfinite(strength))
    average = next((loss for strength, loss in found.tried if math.isinf(strength)), None)
    fig = charts.figure("pull towards a weighted average", "held-out log loss, nats")
    x = [strength for strength, _ in tried]
    charts.line(fig, "head", x, [loss for _, loss in tried], charts.colour("ink"), markers=True)
    if average is not None:
        charts.line(fig, "plain average", x, [average] * len(x), charts.colour("muted"), dash="dot")
    charts.logarithmic(fig, min(x), max(x), lambda tick: f"{tick:g}")
    fig.update_xaxes(tickvals=x, ticktext=[f"{value:g}" for value in x])
    charts.draw(fig, "combiner-pull", f"Held-out log loss at {len(x)} strengths")
    chosen = "the plain average stays" if math.isinf(found.strength) else f"a pull of {found.strength:g}"
    own = bool(trial.step.strengths)
    said = f"You hold it: {chosen}." if own else f"The folds chose: {chosen}."
    st.html(f'<p class="mo-foot"><b>{escape(said)}</b> From strong to weak until the loss on held-out examples rises; '
            f"{found.folds} folds of val.</p>")  # fmt: skip
    st.button("Let the folds choose", on_click=turning.follow_folds, disabled=not own, key="Fuse.folds.choose")
