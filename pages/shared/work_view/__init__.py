"""How a job looks: a sentence on its state, a bar that moves, and the curves of what it reports, in a kept element."""

from __future__ import annotations

from html import escape
from itertools import groupby
from pathlib import Path

import streamlit as st

from modelopt_core.jobs import Job, watch
from modelopt_core.step import Step
from pages.shared import units

STATES = {"queued": "Starting", "running": "Training", "paused": "Paused", "done": "Done", "cancelled": "Stopped",
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
    """Not measured yet: what it needs, and how long the last one took. latest: the last finished job of its kind."""
    took = f" The last {escape(step.name)} here took {units.duration(watch.seconds(latest))}." if latest else ""
    return (
        '<div class="mo-work"><b>Not measured</b><p>This setting trains, which takes longer than a slider. '
        f"Run it once, and it is kept.{took}</p></div>"
    )


def said(job: Job) -> str:
    """The state and, where it ended early, why, and what is kept."""
    state, error = job.state, job.error
    more = ""
    if state == "failed":
        kept = " The last good model is kept." if job.saved else ""
        more = f"<p>{escape((error or '')[:300])}.{kept}</p>"
    return f'<div class="mo-work"><b>{STATES[state]}</b>{more}</div>'


def progress(job: Job, key: str = "work-progress") -> None:
    """The bar, what is being done and how fast, and up to three small plots."""
    now, left = job.progress, watch.left_s(job)
    percent = units.percent(watch.share(job))
    doing = "starting" if now is None else f"{now.phase}, {percent}"
    epoch, speed = watch.latest(job, "epoch"), watch.latest(job, "examples_per_s")
    if now is not None and epoch is not None:
        doing = f"{now.phase}, epoch {epoch:.0f}, {percent}"
    fast = f"{units.whole(speed)} examples per second" if speed else ""
    _component(
        key=key,
        data={
            "share": round(watch.share(job), 4),
            "left": doing,
            "right": " · ".join(filter(None, (fast, f"about {units.duration(left)} left" if left else ""))),
            "plots": plots(job),
        },
    )


def plots(job: Job) -> list[dict[str, object]]:
    """One plot for each kind of value: `score` and `score alone` share one."""
    now = job.progress
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
            "right": now.total if now else 1,
            "alt": f"{kind} over the training, now {text}",
            "lines": [{"x": curve.x, "y": [float(f"{y:.5g}") for y in curve.y]} for curve in curves],
        })  # fmt: skip
    return found[:MOST_PLOTS]
