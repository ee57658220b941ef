"""What a job's events say to somebody who watches: how far it is, how fast, its curves, what it waits for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import modelopt_core.studies.jobs.journal as journal
import modelopt_core.studies.jobs.plan as plans
from modelopt_core.machine.events import Progress
from modelopt_core.studies.jobs.job import Job
from modelopt_core.studies.jobs.pairs import PLAIN

MOST_POINTS = 300  # of a curve that is drawn some 300 pixels wide
ENOUGH = 0.03  # of the work done before its end can be told


@dataclass(frozen=True)
class Curve:
    """One reported value since the training began. x: steps (batches), y: what was reported there."""

    name: str
    x: tuple[int, ...]
    y: tuple[float, ...]


def share(job: Job) -> float:
    """How much of the job is done, in [0, 1]; of a recipe with several trainings, how much of the one that runs."""
    if job.state == "done":
        return 1.0
    told, parts, plan = None, 0, job.plan
    for event in job.events():
        over = _part_is_over(event)
        parts += over
        told = event if event["kind"] == "progress" else None if over else told
    now = plans.progress(told) if told else None
    part = min(1.0, max(0.0, now.step / now.total)) if now and now.total > 0 else 0.0
    wanted = len(plan.grid.places) if plan.grid else len(plan.pair.seeds) if plan.pair else 0
    return (parts + part) / max(parts + 1, wanted) if wanted else part


def _part_is_over(event: journal.Record) -> bool:
    """A place of a grid is measured, or both results of a seed are."""
    return event["kind"] == "point" or (event["kind"] == "stage" and bool(event.get("alone")))


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


def by_epoch(job: Job, name: str) -> dict[int, Curve]:
    """One reported value of every seed, by epochs: seed → Curve, x counts epochs. Of sweeps nothing."""
    found: dict[int, dict[int, float]] = {}
    for event in job.events() if job.plan.grid is None else ():
        values = plans.progress(event).values if event["kind"] == "progress" else {}
        if "epoch" in values and math.isfinite(values.get(name, math.nan)):
            found.setdefault(int(values.get("seed", job.plan.seed)), {})[int(values["epoch"])] = values[name]
    return {seed: Curve(name, tuple(sorted(at)), tuple(at[x] for x in sorted(at))) for seed, at in found.items()}


@dataclass(frozen=True)
class Band:
    """Curves of several seeds as one: at every x that all have, the mean, the lowest and the highest."""

    x: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def band(curves: Sequence[Curve]) -> Band:
    """One or more curves as a Band; where not all have the same x, what they share."""
    points = [dict(zip(curve.x, curve.y, strict=True)) for curve in curves]
    shared = sorted(set.intersection(*map(set, points)))
    columns = [[each[x] for each in points] for x in shared]
    return Band(tuple(shared), tuple(map(fmean, columns)), tuple(map(min, columns)), tuple(map(max, columns)))


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
    """How long one setting took: of a sweep the mean over its points, of a pair over its seeds."""
    return seconds(job) / max(1, sum(map(_part_is_over, job.events())))


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
