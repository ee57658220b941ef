"""The frame that every technique page shares: title, three cards, the Dial, tabs. A page says what is its own.

Three parts rerun alone (`st.fragment`): the cards, the Dial and the tabs. A released Dial reruns all three and nothing
else of the page; a curve that still grows reruns the Dial only, twice a second, until it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from html import escape
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.measuring.measurement import Measurement
from modelopt_core.steps.base import Knob
from pages.draw import say
from pages.draw.dial import dial
from pages.frame import guess, present
from pages.frame.technique import Technique as Technique
from pages.state import address, bench, controls, history
from pages.state import pool as pools
from pages.tabs import cards, examples, layer_table, report, results, source
from pages.tabs.rows import curve_rows, percent_base
from pages.work import launch, line
from pages.work import trial as trials

POLL_S = 0.5
HEIGHTS = {"learn": 240, "tune": 240, "present": 420}  # of the curve, in pixels
FEW = 4  # points: too few to say where a curve breaks


@contextmanager
def calm(first: bool = False) -> Iterator[None]:
    """An error that the user can mend is one line where it happened; the rest of the page stays.

    first: of the parts that draw one trial; what is wrong with it is said there and not again by the others.
    """
    told = "" if first else st.session_state.get("told", "")
    wrong = ""
    try:
        with line.asking():
            yield
    except ModelOptError as error:
        wrong = str(error)[:500]
    if wrong and wrong != told:
        say.warning(wrong)
    if first:
        st.session_state["told"] = wrong


def page(technique: Technique) -> None:
    """Draw a technique page."""
    here = bench.current()
    controls.prepare(technique.step)
    if technique.pool:
        pools.prepare(technique.name, here, technique.pool)
    technique.settle(here)
    address.own(technique.fields)
    if here.view == "present":
        st.fragment(_bar, key="bar")(technique)
    else:
        _head(technique)
    with calm():
        st.fragment(_cards, key="cards")(technique)
        with st.container(border=True, key="dial-card"):
            if here.view != "present":
                _controls(technique, here)
            done = _sweep(technique).done
            st.fragment(_dial, key="dial", run_every=None if done else POLL_S)(technique, done)
            st.fragment(_strip, key="strip")(technique)
        if here.view != "present":
            st.fragment(_tabs, key="tabs")(technique)


def _controls(technique: Technique, here: bench.Bench) -> None:
    """The members or whatever else the step works on, where there is a choice, and the step's fields."""
    choose = technique.choose or (pools.choose if technique.pool else None)
    shares = [3, 2] if technique.pool else [5, 16]
    subject, fields = st.columns(shares, gap="medium") if choose else (nullcontext(), nullcontext())
    if choose:
        with subject:
            choose(technique.name, here)
    with fields:
        but = {technique.knob, *technique.idle(here)}
        controls.draw(technique.step, but=but, labels=technique.labels, aside=technique.aside)


def _head(technique: Technique) -> None:
    st.html(
        f'<header class="mo-head"><h1>{escape(technique.name)}</h1><p>{escape(technique.step.sentence)}</p>'
        f'<span class="mo-formula">{escape(technique.step.formula)}</span></header>'
    )


def _trial(technique: Technique) -> trials.Trial | None:
    """The setting, measured; None where that takes a job and none has done it."""
    asked = technique.setting(bench.current())
    return trials.measure(asked) if launch.kept(asked) else None


def _bar(technique: Technique) -> None:
    export = None
    with suppress(ModelOptError), line.asking():  # the cards say it; the way out of this view stays
        if trial := _trial(technique):
            export = partial(report.html, trial, technique.note(trial.step, trial.measurement))
    present.bar(technique.name, technique.step, technique.fields, export)


def _sweep(technique: Technique) -> trials.Sweep:
    here = bench.current()
    return trials.sweep(technique.setting(here), technique.handle(here))


def _cards(technique: Technique) -> None:
    with calm(first=True):
        trial = _trial(technique)
        if trial is None:
            launch.panel(technique.setting(bench.current()), asking=_asking(technique))
            history.note(technique.name, technique.fields)
            return
        note = technique.note(trial.step, trial.measurement)
        cards.draw(trial, note, big=trial.bench.view == "present", asking=_asking(technique))
        history.record(technique.name, technique.fields, trial, trial.on_curve)


def _dial(technique: Technique, was_done: bool) -> None:
    with calm():
        asked = technique.setting(bench.current())
        here, handle = asked.bench, technique.handle(asked.bench)
        knob, value = handle.knob, handle.value
        sweep, trial, start = _sweep(technique), _trial(technique), trials.start(here, asked.members)
        key = dial_key(technique, here)
        guessed = guess.made(key) if here.view == "learn" else None
        if here.view == "learn":
            _ask(technique, guessed, sweep, start, knob)
        dial(
            key,
            value=value,
            **handle.rail,
            points=curve_rows(sweep.points, value, trial),
            baseline=percent_base(start),
            label=f"{technique.name}: {handle.title}. {handle.about}",
            unit=handle.unit or technique.unit,
            height=HEIGHTS[here.view],
            question=technique.learn.place if here.view == "learn" else None,
            reference=technique.reference(technique.setting(here)),
            progress=sweep.progress,
            on_release=lambda: _released(technique, key),
        )
        if sweep.error:
            say.caption(sweep.error)
        if asked.step.lasts(here.workload):
            launch.curve_row(asked, technique.knob)
        address.write()
        if sweep.done and not was_done:
            address.rerun()  # ends the polling


def _strip(technique: Technique) -> None:
    if technique.strip and not _asking(technique):
        with calm():
            technique.strip(technique.setting(bench.current()))


def _asking(technique: Technique) -> bool:
    """Learn, and the guess is still to come: nothing on the page gives the score away."""
    here = bench.current()
    return here.view == "learn" and guess.made(dial_key(technique, here)) is None


def _ask(technique: Technique, guessed: float | None, sweep: trials.Sweep[Any], start: Measurement, knob: Knob) -> None:
    said = "The curve is measured, and hidden until you have guessed."
    if not sweep.total:
        said = "Nobody has measured it yet. Guess, then run it."
    elif guessed is not None and sweep.done and len(sweep.points) < FEW:
        said = "Measure the curve to see how near your guess is."
    elif guessed is not None:
        said = technique.learn.answer(guessed, sweep, start, knob)
    st.html(f'<div class="mo-ask"><b>{escape(technique.question)}</b><p>{escape(said)}</p></div>')


def dial_key(technique: Technique, here: bench.Bench) -> str:
    """Another model's Dial is another node: Learn asks anew."""
    return f"dial {technique.name} {here.workload.name} {here.model_name}"


def _released(technique: Technique, key: str) -> None:
    """Callback of the Dial: keep the value, then rerun what depends on it."""
    release = (st.session_state.get(key) or {}).get("release") or {}
    try:
        value = float(release["value"])
        technique.handle(bench.current()).keep(value)
    except (ModelOptError, KeyError, TypeError, ValueError) as error:  # a forged message
        address.tell(str(error))
        return
    view = st.session_state["view"]
    if view == "learn":
        guess.make(key, value)
    st.rerun(["cards", "dial", "strip", "bar" if view == "present" else "tabs", "history"])


def _tabs(technique: Technique) -> None:
    with calm():
        setting = technique.setting(bench.current())
        trial, hidden, view = _trial(technique), _asking(technique), setting.bench.view
        drawn: dict[str, Callable[[], None]] = {
            "Source": lambda: source.draw(setting),
            "Numbers": lambda: results.draw(setting, technique.handle(setting.bench).name, _sweep(technique).points),
        }
        for title, draw in _of_a_trial(technique).items():
            drawn[title] = partial(draw, trial) if trial else launch.to_come
        for title, show in technique.always.items():
            drawn[title] = partial(show, trial or setting)
        titles = technique.order or ("Layers", *technique.tabs, *technique.always)
        names = [*titles, "Examples", "Source", "Numbers"]
        first = "Source" if view == "learn" else titles[0]
        tabs = st.tabs(names, key=f"tabs-{technique.name}-{view}", default=first, on_change="rerun")
        for tab, title in zip(tabs, names, strict=True):
            if tab.open:
                with tab:
                    st.caption(cards.HIDDEN) if hidden and title not in ("Layers", "Source") else drawn[title]()


def _of_a_trial(technique: Technique) -> dict[str, Callable[[trials.Trial], None]]:
    """The tabs that need a measured setting."""
    return {
        "Layers": lambda trial: layer_table.draw(trial, technique.bars(trial.step)),
        **technique.tabs,
        "Examples": partial(examples.draw, shown=technique.shown),
    }
