"""What a job's events say to somebody who watches: how far it is, how fast, its curves, what it waits for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import modelopt_core.jobs.plan as plans
from modelopt_core.events import Progress
from modelopt_core.jobs.job import Job

MOST_POINTS = 300  # of a curve that is drawn some 300 pixels wide
ENOUGH = 0.03  # of the work done before its end can be told
PLAIN = ("epoch", "round", "examples_per_s")  # values that are told as numbers, not as curves


@dataclass(frozen=True)
class Curve:
    """One reported value since the training began. x: steps (batches), y: what was reported there."""

    name: str
    x: tuple[int, ...]
    y: tuple[float, ...]


def share(job: Job) -> float:
    """How much of the job is done, in [0, 1]; of one with several trainings that are no sweep, how much of this one."""
    if job.state == "done":
        return 1.0
    told, points = None, 0
    for event in job.events():
        points += event["kind"] == "point"
        told = event if event["kind"] == "progress" else None if event["kind"] == "point" else told
    now = plans.progress(told) if told else None
    part = min(1.0, max(0.0, now.step / now.total)) if now and now.total > 0 else 0.0
    return (points + part) / max(points + 1, len(job.plan.grid.places)) if job.plan.grid else part


def curves(job: Job) -> tuple[Curve, ...]:
    """Every reported value of the training that runs, or ran last, as a curve of at most MOST_POINTS points."""
    told = _latest_training(job)
    told = told[: -1 : max(1, math.ceil(len(told) / MOST_POINTS))] + told[-1:]
    names = dict.fromkeys(name for event in told for name in event.values if name not in PLAIN)
    found = []
    for name in names:
        points = [(e.step, e.values[name]) for e in told if math.isfinite(e.values.get(name, math.nan))]
        if points:
            found.append(Curve(name, *(tuple(column) for column in zip(*points, strict=True))))
    return tuple(found)


def latest(job: Job, name: str) -> float | None:
    """The last finite value that was reported under this name."""
    return next(
        (e.values[name] for e in reversed(_latest_training(job)) if math.isfinite(e.values.get(name, math.nan))), None
    )


def seconds(job: Job) -> float:
    """How long it has worked, without the time that it waited or stood still; of a dead one, until its last word."""
    total, last, since = 0.0, 0.0, None
    for event in job.events():
        last = plans.number(event.get("time_s"))
        if event["kind"] == "state":
            total += last - since if since is not None else 0.0
            since = last if event.get("state") == "running" else None
    return max(0.0, total + (last - since if since is not None else 0.0))


def seconds_each(job: Job) -> float:
    """How long one setting took: of a sweep the mean over its points."""
    points = sum(event["kind"] == "point" for event in job.events())
    return seconds(job) / max(1, points)


def left_s(job: Job) -> float | None:
    """Seconds that it will take yet at its speed so far; None before that can be told."""
    done = share(job)
    return seconds(job) * (1 - done) / done if job.state == "running" and done >= ENOUGH else None


def _latest_training(job: Job) -> list[Progress]:
    """The reports with values of the phase that runs, or of the last that had any."""
    found: list[Progress] = []
    for event in reversed(job.events()):
        if event["kind"] in ("stage", "point") and found:
            break
        if event["kind"] != "progress" or not event.get("values"):
            continue
        told = plans.progress(event)
        if found and (told.phase != found[-1].phase or told.total != found[-1].total or told.step > found[-1].step):
            break
        found.append(told)
    return found[::-1]
