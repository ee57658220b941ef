"""How a job looks: a sentence on its state, a bar that moves, and the curves of what it reports, in a kept element."""

from __future__ import annotations

from html import escape
from itertools import groupby
from pathlib import Path

import streamlit as st

from modelopt_core.steps.base import Step
from modelopt_core.studies.jobs import Job, watch
from pages.draw import units

STATES = {"queued": "Starting", "running": "Running", "paused": "Paused", "done": "Done", "cancelled": "Stopped",
          "failed": "Ended early"}  # fmt: skip
SHARES = ("score", "agreement")  # values in [0, 1], written in per cent
MOST_PLOTS = 3

HERE = Path(__file__).parent

_component = st.components.v2.component(
    "modelopt_work",
    html=(HERE / "work.html").read_text("utf-8"),
    css=(HERE / "work.css").read_text("utf-8"),
    js=(HERE / "work.js").read_text("utf-8"),
)


def idle(step: Step, latest: Job | None) -> str:
    """Not measured yet: what to do, and how long the last one took. latest: the last finished job of its kind."""
    return (
        '<div class="mo-work"><b>Not measured</b><p>This setting takes longer than a slider can wait. '
        f"Run it once, and it is kept.{escape(took(step, latest))}</p></div>"
    )


def took(step: Step, latest: Job | None) -> str:
    """How long one took last time, where one is known."""
    if latest is None:
        return ""
    return f" The last {step.name} here took {units.duration(watch.seconds_each(latest))}."


def said(job: Job) -> str:
    """The state and, where it ended early, why, and what is kept."""
    state, more = job.state, ""
    if state == "failed":
        kept = " The last good model is kept." if job.saved else ""
        more = f"<p>{escape((job.error or '')[:300])}.{kept}</p>"
    return f'<div class="mo-work"><b>{state_of(job)}</b>{more}</div>'


def state_of(job: Job) -> str:
    """The state in a word or two."""
    waits = job.state == "queued" and not job.awaited
    return "Waiting for its turn" if waits else STATES[job.state]


def curve_line(job: Job | None) -> str:
    """A sentence beside the button that has the curve measured, or on how far that is."""
    if job is None:
        said = "The curve shows what was run. A job can measure the rest."
    else:
        left = watch.left_s(job)
        said = f"Measuring the curve: {state_of(job).lower()}" + (
            f", about {units.duration(left)} left" if left else ""
        )
    return f'<p class="mo-foot">{escape(said)}</p>'


def progress(job: Job, key: str = "work-progress", *, curves: bool = True) -> None:
    """The bar, what is being done and how fast, and up to three small plots."""
    _component(
        key=key,
        data={
            "share": round(watch.share(job), 4),
            "left": doing(job),
            "right": pace(job),
            "plots": plots(job) if curves else [],
        },
    )


def pace(job: Job) -> str:
    """How fast it is, and how long it will take yet: 3,400 examples per second · about 8 s left"""
    speed, left = None if job.ended else watch.latest(job, "examples_per_s"), watch.left_s(job)
    fast = f"{units.whole(speed)} examples per second" if speed else ""
    return " · ".join(filter(None, (fast, f"about {units.duration(left)} left" if left else "")))


def doing(job: Job) -> str:
    """prune, round 2, epoch 3, 61.0 %"""
    now, percent = job.progress, units.percent(watch.share(job))
    if job.ended:
        return ""
    if now is None or now.phase == "recipe":
        return "measuring" if now and now.step else "starting"
    several = ("seed",) if job.plan.pair and len(job.plan.pair.seeds) > 1 else ()
    counted = ((name, watch.latest(job, name)) for name in (*several, "round", "epoch"))
    return ", ".join([now.phase, *(f"{name} {value:.0f}" for name, value in counted if value is not None), percent])


def plots(job: Job) -> list[dict[str, object]]:
    """One plot for each kind of value: `score` and `score alone` share one."""
    found = []
    ordered = sorted(watch.curves(job), key=lambda curve: curve.name)
    for kind, members in groupby(ordered, key=lambda curve: curve.name.partition(" ")[0]):
        curves = list(members)
        value = curves[0].y[-1]
        text = units.percent(value) if kind in SHARES else f"{value:.3g}"
        found.append({
            "title": " and ".join(curve.name for curve in curves),
            "role": kind,
            "value": text,
            "alt": f"{kind} over the training, now {text}",
            "lines": [{"x": curve.x, "y": [float(f"{y:.5g}") for y in curve.y]} for curve in curves],
        })  # fmt: skip
    return found[:MOST_PLOTS]
