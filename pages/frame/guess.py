"""Learn asks first: the user guesses where the score breaks, then the measured curve answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from modelopt_core.measuring.measurement import Measurement
from modelopt_core.steps.base import Knob
from modelopt_core.steps.recipe import Point
from modelopt_core.studies.background import Sweep
from pages.draw import units

NEAR = 0.03  # of the knob's range: the curve is not measured finer


def made(dial_key: str) -> float | None:
    """What the user guessed on this dial, if he has."""
    found: float | None = st.session_state.get("guesses", {}).get(dial_key)
    return found


def make(dial_key: str, value: float) -> None:
    """The first release in Learn is the guess; later ones are looking around."""
    st.session_state.setdefault("guesses", {}).setdefault(dial_key, value)


def forget() -> None:
    """Ask again: after a reset, another view, another page."""
    st.session_state["guesses"] = {}


def breaking_point(points: Sequence[Point], start: Measurement) -> Point | None:
    """The first setting, seen from the knob's better end, with an interval wholly below the baseline's."""
    ordered = sorted(points, key=lambda point: point.value)
    if ordered and ordered[0].measurement.score.value < ordered[-1].measurement.score.value:
        ordered.reverse()
    return next((p for p in ordered if p.measurement.score.high < start.score.low), None)


def answer(guessed: float, sweep: Sweep, start: Measurement, knob: Knob) -> str:
    """How near the guess was, in one or two sentences, from measured points."""
    said = f"Your guess: {knob.symbol} = {units.knob(guessed, knob.step)}."
    if not sweep.done:
        return f"{said} {_measuring(sweep)}"
    found = breaking_point(sweep.points, start)
    if found is None:
        return f"{said} Measured: it never breaks; no setting is clearly below {units.percent(start.score.value)}."
    away = abs(found.value - guessed)
    near = "spot on" if away <= NEAR * (knob.high - knob.low) else f"{units.knob(away, knob.step)} away"
    score = found.measurement.score
    return (
        f"{said} Measured: from {knob.symbol} = {units.knob(found.value, knob.step)} the score is clearly below the "
        f"baseline's {units.percent(start.score.value)} ({units.percent(score.value)}, at most "
        f"{units.percent(score.high)}). You were {near}."
    )


def best(guessed: float, sweep: Sweep, _: Measurement, knob: Knob) -> str:
    """The same where the question is which setting is best: the highest score, and what is not clearly below it."""
    said = f"Your guess: {knob.symbol} = {units.knob(guessed, knob.step)}."
    if not sweep.done:
        return f"{said} {_measuring(sweep)}"
    top = max(sweep.points, key=lambda point: point.measurement.score.value)
    score = top.measurement.score
    good = [point.value for point in sweep.points if point.measurement.score.high >= score.low]
    low, high, at = (units.knob(value, knob.step) for value in (min(good), max(good), top.value))
    found = f"{said} Measured: the score is highest at {knob.symbol} = {at} ({units.percent(score.value)})"
    if len(good) == len(sweep.points):
        return f"{found}; no setting is clearly below that."
    near = "among them" if min(good) <= guessed <= max(good) else "outside"
    return f"{found}; from {low} to {high} are those not clearly below it. Your guess is {near}."


def _measuring(sweep: Sweep) -> str:
    return f"Measuring the curve: {len(sweep.points)} of {sweep.total} points."


@dataclass(frozen=True)
class Kind:
    """What is to be guessed. place: what stands beside the handle; answer: what is said to the guess."""

    place: str
    answer: Callable[[float, Sweep, Measurement, Knob], str]


BREAKS = Kind("Put the handle where you think it breaks, then let go.", answer)
BEST = Kind("Put the handle where you think it is best, then let go.", best)
