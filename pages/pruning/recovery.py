"""The strip below the Dial: raw → norms re-estimated → fine-tuned, so that nobody takes the first for the result."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.tasks.statistics import Estimate, mean_interval
from modelopt_core.training.norms import norms_of
from pages.draw import units
from pages.state import address, at_hand, controls
from pages.state.bench import Bench
from pages.state.setting import Setting
from pages.work import launch, line

KEYS = controls.keys(mo.Prune)
TITLES = {"none": "raw", "norms": "norms re-estimated", "fine-tuned": "fine-tuned"}
ARROW = "\N{RIGHTWARDS ARROW}"
EVERY_S = 1.0


@dataclass(frozen=True)
class Mark:
    """One of the three points. score: None where it is not measured; said: what stands there then or beside it."""

    recovery: str
    score: Estimate | None
    said: str = ""


def marks(here: Bench, step: mo.Prune) -> list[Mark]:
    """The same removal with each recovery; what takes a training is measured only where a job has done it."""
    raw = Mark("none", _score(here, step.changed(recovery="none")))
    if norms_of(here.model):
        norms = Mark("norms", _score(here, step.changed(recovery="norms")))
    else:
        norms = Mark("norms", raw.score, "no batch norm here: nothing to re-estimate")
    tuned = step.changed(recovery="fine-tuned")
    rounds = f", {tuned.rounds} rounds" if tuned.rounds > 1 else ""
    said = f"{tuned.epochs} epoch{'s' if tuned.epochs > 1 else ''}{rounds}"
    if launch.kept(Setting(here, tuned)):
        return [raw, norms, Mark("fine-tuned", _score(here, tuned), said)]
    return [raw, norms, Mark("fine-tuned", None, "a job is at it" if busy(here, step) else "not measured")]


def busy(here: Bench, step: mo.Prune) -> bool:
    """Is a job at the fine-tuned point?"""
    tuned = step.changed(recovery="fine-tuned")
    job = None if launch.kept(Setting(here, tuned)) else launch.found(Setting(here, tuned))
    return job is not None and not job.ended


def untuned(step: mo.Prune, here: Bench) -> str:
    """What tabs that measure hundreds of networks say where training is chosen, else empty."""
    if not step.lasts(here.workload):
        return ""
    return "Nothing here is fine-tuned: one shot for each point, then norms re-estimated."


def draw(setting: Setting) -> None:
    """The strip; while a job is at the last point, it looks every second whether it is there."""
    assert isinstance(setting.step, mo.Prune)
    watched = busy(setting.bench, setting.step)
    st.fragment(_draw, key="recovery-strip", run_every=EVERY_S if watched else None)(setting, watched)


def _draw(setting: Setting, watched: bool) -> None:
    """The three points in a row, the chosen one marked; a button for the last where it is not measured."""
    here, step = setting.bench, setting.step
    assert isinstance(step, mo.Prune)
    if watched and not busy(here, step):
        address.rerun()  # ends the polling
    try:
        with line.asking():
            found = marks(here, step)
    except ModelOptError:  # the cards say it
        return
    with st.container(horizontal=True, vertical_alignment="center", key="recovery"):
        arrow = f"<i>{ARROW}</i>"
        large = " mo-large" if here.view == "present" else ""
        st.html(
            f'<div class="mo-strip{large}"><span>After removing</span>{arrow.join(_html(m, step) for m in found)}</div>'
        )
        if found[-1].score is None and step.recovery != "fine-tuned" and not large:
            st.button("Fine-tune", icon=":material/school:", key="fine-tune", type="tertiary", on_click=_choose,
                      help="Train what is left for some epochs: takes a job, which you then run above.")  # fmt: skip


def _score(here: Bench, step: mo.Prune) -> Estimate:
    model = at_hand.apply(step, [here.model], here.workload)
    said = mo.predictions(model, here.workload, runtime=here.runtime, device=here.device)
    return mean_interval(said.scores.numpy())


def _html(mark: Mark, step: mo.Prune) -> str:
    chosen = ' class="mo-chosen"' if mark.recovery == step.recovery else ""
    score = units.percent(mark.score.value) if mark.score else units.DASH
    said = f" <small>{escape(mark.said)}</small>" if mark.said else ""
    return f"<span{chosen}>{TITLES[mark.recovery]} <b>{score}</b>{said}</span>"


def _choose() -> None:
    """Callback: the setting with training, which the page then offers to run."""
    st.session_state[KEYS["recovery"]] = "fine-tuned"
    st.rerun()
