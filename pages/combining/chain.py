"""How a pipeline is put together on the page: its stages in order, a model for each, the inputs it meets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.steps.pipeline import SWITCHES, chains
from modelopt_core.workloads.damage import alterations, altered
from modelopt_core.workloads.subtask import Subtask
from pages.draw.say import plain
from pages.state import address, knob, pool
from pages.state.bench import Bench
from pages.state.loaded import load_workload
from pages.state.stack import Stack

STAGES, MEMBERS, SWITCHED, INPUTS = (f"Pipeline.{name}" for name in ("stages", "members", "switches", "inputs"))
READY = "Pipeline.ready"  # is the popover open?
ALTERED = {"": "inputs as they are", "damage": "half damaged", "scatter": "scattered"}  # on the screen and in links
DECIDES = {"route": "threshold", "judge": "suspicion"}  # which field says how sure a kind of stage must be
UNTURNED = "No stage sorts or judges here: the Dial changes nothing."
FEWER = (8, 4)  # bits of a stage's model on offer
ARROW = "\N{RIGHTWARDS ARROW}"


def settle(here: Bench) -> None:
    """Stages that the workload has, models that do their jobs, switches of these stages."""
    state, known = st.session_state, [task.name for task in here.workload.subtasks]
    address.take("inputs", INPUTS, lambda text: _one_of("inputs", text, tuple(ALTERED.values())))
    address.take("switches", SWITCHED, lambda text: tuple(_pair(part, known) for part in text.split(",")))
    if state.get(INPUTS) not in _inputs(here):
        state[INPUTS] = ALTERED[""]
    if any(name not in known for name in state[STAGES]):
        state[STAGES] = mo.Pipeline.model_fields["stages"].default
    state[SWITCHED] = tuple(pair for pair in state.get(SWITCHED, ()) if pair[0] in state[STAGES])
    places = list(seats(here))
    members = pool.current("Pipeline", here)
    if len(members) != len(places) or any(
        m.model_name not in _able(here, task) for m, (task, _) in zip(members, places, strict=True)
    ):
        state[MEMBERS] = pool.text([Stack(_own(task, at), ()) for task, at in places])


def on(here: Bench) -> Bench:
    """The bench with the inputs that the pipeline meets."""
    how = _inputs(here)[st.session_state[INPUTS]]
    return replace(here, workload=altered(load_workload(here.workload.name), how)) if how else here


def _inputs(here: Bench) -> dict[str, str]:
    """What the workload's inputs may be, on the screen -> how that is altered."""
    return {ALTERED[how]: how for how in ("", *alterations(here.workload))}


def turn(step: mo.Pipeline, here: Bench) -> knob.Handle:
    """The Dial turns how sure the sorting must be; without a sorting stage, how suspicious the judge."""
    kinds = _kinds(here)
    found = knob.of_field(step, "suspicion" if "judge" in kinds and "route" not in kinds else "threshold")
    return found if kinds & DECIDES.keys() else replace(found, about=f"{UNTURNED} {found.about}")


def idle(here: Bench) -> set[str]:
    """Fields that mean nothing to these stages, or stand on the Dial."""
    kinds = _kinds(here)
    return {field for kind, field in DECIDES.items() if kind not in kinds or len(kinds & DECIDES.keys()) == 1}


def _kinds(here: Bench) -> set[str]:
    return {here.workload.subtask(name).kind for name in st.session_state[STAGES]}


def seats(here: Bench) -> Iterator[tuple[Subtask, int]]:
    """(stage, group) of every model of the pool, in its order."""
    for name in st.session_state[STAGES]:
        task = here.workload.subtask(name)
        yield from ((task, at) for at in range(task.experts))


def choose(page: str, here: Bench) -> None:
    """The stages in order, and what inputs they meet."""
    widget = f"{STAGES}.select"
    st.session_state[widget] = list(st.session_state[STAGES])
    st.multiselect(
        "Stages, in order", [task.name for task in here.workload.subtasks], key=widget, on_change=_chosen,
        args=(here, widget), help="What a stage gives, the next must take. Their order is the order of adding them.",
    )  # fmt: skip
    st.html(f'<p class="mo-foot">{_wires(here)}</p>')
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if len(inputs := _inputs(here)) > 1:
            st.segmented_control("Inputs", list(inputs), key=INPUTS, required=True, persist_state="session",
                                 label_visibility="collapsed", format_func=plain)  # fmt: skip
        st.fragment(_ready, key="pipeline-ready")(here)


def _ready(here: Bench) -> None:
    """Rows of stages to choose from; only this is drawn again when it opens."""
    with st.popover("Ready-made", icon=":material/route:", key=READY, on_change="rerun",
                    help="Rows of stages that can be wired."):  # fmt: skip
        for at, chain in enumerate(chains(here.workload)):
            st.button(plain(f" {ARROW} ".join(chain)), key=f"Pipeline.chain.{at}", on_click=take, args=(here, chain),
                      disabled=chain == st.session_state[STAGES], type="tertiary")  # fmt: skip


def _wires(here: Bench) -> str:
    """image → quality → graded image → …, and a ≠ where a stage takes something else."""
    given, told = here.workload.modality, [escape(here.workload.modality)]
    for name in st.session_state[STAGES]:
        task = here.workload.subtask(name)
        wrong = "" if task.takes == given else f" ≠ {escape(task.takes)}"
        told.append(f"{wrong} {ARROW} <b>{escape(name)}</b> {ARROW} {escape(task.gives)}")
        given = task.gives
    return "".join(told) + ("" if _kinds(here) & DECIDES.keys() else f"<br>{UNTURNED}")


def take(here: Bench, chain: Sequence[str]) -> None:
    """Callback: these stages, with the models that come with them, on inputs altered as the stages are made for."""
    state = st.session_state
    kept = {
        (task.name, at): member for (task, at), member in zip(seats(here), pool.current("Pipeline", here), strict=True)
    }
    state[STAGES] = tuple(chain)
    state[MEMBERS] = pool.text([kept.get((task.name, at)) or Stack(_own(task, at), ()) for task, at in seats(here)])
    meets = next(filter(None, (here.workload.subtask(name).meets for name in chain)), "")
    state[INPUTS] = ALTERED[meets]
    state[READY] = False  # closes it
    st.rerun()


def _chosen(here: Bench, widget: str) -> None:
    chain = tuple(st.session_state.get(widget) or ())
    try:
        mo.STEPS["Pipeline"](stages=chain)
    except ModelOptError as error:
        address.tell(str(error))
        return
    take(here, chain)


def offered(here: Bench, task: Subtask, at: int, member: Stack) -> list[Stack]:
    """Models that can do it: the stage's own, the workload's where they answer it, and each in fewer bits."""
    names = [_own(task, at), *(name for name in _able(here, task) if name not in task.models)]
    found = [
        Stack(name, steps) for name in names for steps in ((), *((mo.STEPS["Quantize"](bits=bits),) for bits in FEWER))
    ]
    return [*found, *([] if pool.text([member]) in [pool.text([one]) for one in found] else [member])]


def swap(here: Bench, at: int, widget: str) -> None:
    """Callback: another model for one place of the pool."""
    members = [pool.text([member]) for member in pool.current("Pipeline", here)]
    members[at] = st.session_state[widget]
    st.session_state[MEMBERS] = pool.of_texts(members)
    st.rerun()


def switch(name: str, widget: str) -> None:
    """Callback: a stage as its model, as its truth, or off."""
    others = [pair for pair in st.session_state[SWITCHED] if pair[0] != name]
    mode = st.session_state[widget]
    st.session_state[SWITCHED] = (*others, (name, mode)) if mode in SWITCHES[1:] else tuple(others)
    st.rerun()


def _own(task: Subtask, at: int) -> str:
    return task.models[min(at, len(task.models) - 1)]


def _able(here: Bench, task: Subtask) -> list[str]:
    return [*task.models, *(here.workload.models if task.kind in ("route", "answer") else ())]


def _pair(text: str, known: Sequence[str]) -> tuple[str, str]:
    name, _, mode = text.partition(":")
    return _one_of("stage", name, known), _one_of(f"switch of {name}", mode, SWITCHES)


def _one_of(kind: str, text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise unknown(kind, text, choices)
    return text
