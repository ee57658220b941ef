"""The tab Stages: who leaves where, as a Sankey diagram, and a threshold a stage."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.cascade import Flow, flow
from pages.combining import said
from pages.draw import charts, units
from pages.draw.say import plain
from pages.state import controls, pool, stack
from pages.state.bench import Bench
from pages.work.trial import Trial

THRESHOLDS, THRESHOLD, EXITS = "Cascade.thresholds", "Cascade.threshold", "Cascade.exits"
STEP = 0.001
ABOUT = "Layers of the last member; inputs is an exit before the first of them, with a head of its own."


def settle(here: Bench) -> None:
    """As many thresholds as stages that may stop."""
    state = st.session_state
    step, models = controls.current(mo.Cascade), stack.models(pool.current("Cascade", here), here.workload)
    assert isinstance(step, mo.Cascade)
    try:
        fits = len(step.thresholds) in (0, step.ways(models, here.workload) - 1)
    except ModelOptError:  # layers of another model; one that has no exits is told by the cards
        state[EXITS], fits = (), False
    if not fits:
        state[THRESHOLDS] = ()


def choose(page: str, here: Bench) -> None:
    """The members, and where the last of them can be left."""
    pool.choose(page, here)
    step = controls.current(mo.Cascade)
    assert isinstance(step, mo.Cascade)
    if step.stages != "exits":
        return
    offered = step.offered(stack.models(pool.current(page, here), here.workload), here.workload)
    widget = f"{EXITS}.select"
    st.session_state[widget] = [layer for layer in step.exits if layer in offered]
    st.multiselect("Exits behind", offered, key=widget, on_change=_leave, args=(widget,),
                   placeholder="each layer where it saves work", help=ABOUT)  # fmt: skip


def _leave(widget: str) -> None:
    """Callback: other exits, and thresholds for as many."""
    st.session_state[EXITS], st.session_state[THRESHOLDS] = tuple(st.session_state[widget]), ()


def happened(trial: Trial) -> Flow:
    """What the stages did with val."""
    return flow(*said.gates(trial), trial.step.limits(len(said.names(trial))))


def draw(trial: Trial) -> None:
    """Left the flow, right the thresholds."""
    names, found = said.names(trial), happened(trial)
    diagram, limits = st.columns([3, 2], gap="large")
    with diagram:
        _sankey(names, found)
    with limits:
        _limits(trial, names)
        _table(names, found)


def _sankey(names: Sequence[str], found: Flow) -> None:
    n, at = len(found.at), len(names)
    told = [f"{name}<br>{units.whole(reached)}" for name, reached in zip(names, found.reached, strict=True)]
    links = []  # (from, to, examples, colour)
    for i in range(at):
        right = round(found.left[i] * found.stage_scores[i])
        links += [(i, at, right, "score"), (i, at + 1, found.left[i] - right, "lost")]
        if i + 1 < at:
            links.append((i, i + 1, found.reached[i + 1], "muted"))
    right = sum(count for _, to, count, _ in links if to == at)
    told += [f"right<br>{units.whole(right)}", f"wrong<br>{units.whole(n - right)}"]
    fig = charts.sankey(told, [link for link in links if link[2]])
    charts.draw(fig, "flow-chart", f"Of {n} examples of val, {found.left[0]} leave at {names[0]}")


def _table(names: Sequence[str], found: Flow) -> None:
    st.dataframe(
        [
            {"stage": name, "reached": reached, "left": left, "right of those": units.percent(score) if left else ""}
            for name, reached, left, score in zip(names, found.reached, found.left, found.stage_scores, strict=True)
        ],
        hide_index=True,
        key="stages-table",
        alt="Examples that reached and left each stage",
    )


def _limits(trial: Trial, names: Sequence[str]) -> None:
    """A threshold a stage; left alone, all follow the Dial."""
    limits = trial.step.limits(len(names))
    for i, (name, limit) in enumerate(zip(names[:-1], limits, strict=True)):
        key = f"Cascade.threshold.{i}"
        st.session_state[key] = float(limit)
        st.number_input(
            plain(f"{name} stops where it is at least so sure"), 0.0, 1.0, step=STEP, format="%.4f", key=key,
            on_change=_moved, args=(i, key, tuple(limits)),
        )  # fmt: skip
    own = bool(trial.step.thresholds)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Follow the Dial", on_click=take, args=((),), disabled=not own, key="Cascade.follow")
        st.caption("A threshold of its own for each stage: the Dial waits." if own else "All stages follow the Dial.")


def take(thresholds: tuple[float, ...]) -> None:
    """Callback: these thresholds from now on; none: the Dial's for all."""
    st.session_state[THRESHOLDS] = thresholds
    st.rerun()


def _moved(at: int, key: str, limits: tuple[float, ...]) -> None:
    """Callback: a threshold of its own. A browser that still shows the tab that was just left says nothing new."""
    if st.session_state[key] == limits[at]:
        return
    take(tuple(float(st.session_state[key]) if i == at else limit for i, limit in enumerate(limits)))
