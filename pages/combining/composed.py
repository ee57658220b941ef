"""The tab Stages of a pipeline: what each takes and gives, its model, its switch, its score and cost."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.pipeline import SWITCHES, Flow, follow, worth
from modelopt_core.workloads.subtask import Subtask
from pages.combining import chain, said
from pages.draw import charts, units
from pages.draw.say import plain
from pages.state import bench, pool, stack
from pages.state.stack import Stack
from pages.work.trial import Trial

WIDTHS = (3, 5, 3)
ORACLE = "simulated: an oracle knows the truth, and nothing of it is timed"


def happened(trial: Trial, switched: bool = True) -> Flow:
    """What the stages did with val, with the switches of the page or as built."""
    here = trial.bench
    switches = dict(st.session_state[chain.SWITCHED]) if switched else {}
    return follow(trial.after, here.workload, switches=switches, runtime=here.runtime, device=here.device)


def draw(trial: Trial) -> None:
    """A row a stage; below, what its numbers are and what each stage is worth."""
    found, seats = happened(trial), list(chain.seats(bench.current()))
    places = {name: [i for i, (task, _) in enumerate(seats) if task.name == name] for name in found.names}
    for at in places.values():
        _stage(trial, seats[at[0]][0], at)
    _said(trial, found)
    numbers, chart = st.columns([3, 2], gap="large")
    with numbers:
        _numbers(trial, found, places)
    with chart:
        _worth(trial)


def _stage(trial: Trial, task: Subtask, places: Sequence[int]) -> None:
    """What it does, who does it, and the switch."""
    about, models, switch = st.columns(WIDTHS, gap="medium", vertical_alignment="center")
    about.html(
        f'<p class="mo-foot"><b>{escape(task.name)}</b><br><span class="mo-tag">{escape(task.takes)} {chain.ARROW} '
        f"{escape(task.gives)}</span><br>{escape(task.about)}</p>"
    )
    for column, (at, place) in zip(models.columns(len(places), gap="small"), enumerate(places), strict=True):
        with column:
            _model(trial.members[place], task, at, place, alone=len(places) == 1)
    key = f"Pipeline.switch.{task.name}"
    st.session_state[key] = dict(st.session_state[chain.SWITCHED]).get(task.name, SWITCHES[0])
    switch.segmented_control(plain(task.name), SWITCHES, key=key, required=True, on_change=chain.switch,
                             args=(task.name, key), label_visibility="collapsed",
                             help="Its model, its truth, or nothing: see what the stage is worth.")  # fmt: skip


def _model(member: Stack, task: Subtask, at: int, place: int, alone: bool) -> None:
    here = bench.current()
    options = {pool.text([one]): stack.names([one])[0] for one in chain.offered(here, task, at, member)}
    key = f"Pipeline.model.{place}"
    st.session_state[key] = pool.text([member])
    label = "model" if alone else task.label_of(at)
    st.selectbox(plain(label), list(options), key=key, format_func=lambda text: options.get(text, text),
                 on_change=chain.swap, args=(here, place, key))  # fmt: skip


def _said(trial: Trial, found: Flow) -> None:
    """What the switches do to the score."""
    built = units.percent(float(trial.measurement.score.value))
    changed = [f"{name} {mode}" for name, mode in st.session_state[chain.SWITCHED]]
    text = f"As built: <b>{built}</b> on val."
    if changed:
        how = ORACLE if found.how == "simulated" else "not timed"
        text += f" With {escape(', '.join(changed))}: <b>{units.percent(found.score.value)}</b> ({how})."
    st.html(f'<p class="mo-foot">{text}</p>')


def _numbers(trial: Trial, found: Flow, places: dict[str, list[int]]) -> None:
    """Score and cost of each stage."""
    here, rows = trial.bench, []
    models = stack.models(trial.members, here.workload)
    for stage, (name, at) in enumerate(places.items()):
        each = [mo.measure(models[i], here.workload, runtime=here.runtime, device=here.device) for i in at]
        own, share = found.own(stage), found.ran[stage].float().mean()
        rows.append(
            {
                "stage": name,
                "own score": units.percent(own.value) if own else "",
                "asked about": units.percent(float(share)),
                "MACs": units.whole(max(m.macs for m in each)),
                "alone, one": units.milliseconds(max(m.latency_ms.value for m in each)),
                "file": units.size(sum(m.size_bytes for m in each)),
            }
        )
    st.dataframe(rows, hide_index=True, key="pipeline-table", alt="Score and cost of each stage")
    st.caption(
        "Own score: how often the stage did its own job on what no stage before it had spoiled. MACs and time are of "
        "one example, of the largest model of the stage."
    )


def _worth(trial: Trial) -> None:
    """Bars: the score with an oracle in each stage's place, and without the stage."""
    here = trial.bench
    how = {"runtime": here.runtime, "device": here.device}
    limits = f"{trial.step.stages} {trial.step.threshold} {trial.step.suspicion}"
    found = said.kept(trial, f"worth {limits}", lambda: worth(trial.after, here.workload, **how))
    fig = charts.figure("", "score on val", percent="y", height=260)
    charts.bars(
        fig, "with an oracle (simulated)", list(found), [o for o, _ in found.values()], charts.tint("score", 0.45)
    )
    charts.bars(fig, "off", list(found), [o for _, o in found.values()], charts.colour("muted"))
    built = trial.measurement.score.value
    fig.add_hline(y=built, line={"color": charts.colour("ink"), "width": 1.5, "dash": "dash"},
                  annotation_text="as built", annotation_position="top left")  # fmt: skip
    fig.update_layout(barmode="group", bargap=0.3)
    charts.draw(fig, "worth-chart", f"Score with an oracle for, and without, each of {len(found)} stages")
