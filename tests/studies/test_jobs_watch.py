"""What somebody who watches a job is told, worked out by hand from its events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import modelopt_core as mo
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job, journal, watch
from modelopt_core.studies.jobs import plan as plans


@pytest.fixture
def job(tmp_path: Path) -> Job:
    plan = plans.make(owner="0" * 64, created_s=0.0, recipe=plans.recipe((mo.Finetune(),)), models=("mlp",),
                      workload="digits")  # fmt: skip
    (tmp_path / plans.FILE).write_text(plan.model_dump_json())
    return Job(tmp_path)


@pytest.fixture
def say(job: Job) -> Callable[..., None]:
    def say(time_s: float, kind: str, **values: object) -> None:
        journal.append(job.path / jobs.EVENTS, {"time_s": time_s, "kind": kind, **values})

    return say


def train(step: int, total: int = 10, phase: str = "train", **values: float) -> dict[str, object]:
    return {"phase": phase, "step": step, "total": total, "values": values}


def test_a_training_by_hand(job: Job, say: Callable[..., None]) -> None:
    assert (watch.share(job), watch.curves(job), watch.left_s(job), watch.seconds(job)) == (0, (), None, 0)
    with FileLock(job.path / jobs.LOCK):
        say(0, "state", state="queued")
        say(5, "state", state="running")
        say(6, "progress", **train(0, 1, "recipe"))
        say(7, "progress", **train(1, loss=2.0, score=0.5, epoch=1, examples_per_s=100))
        say(9, "progress", **train(4, loss=1.0, score=0.75, epoch=4, examples_per_s=300))
        assert watch.share(job) == 0.4
        assert watch.curves(job) == (watch.Curve("loss", (1, 4), (2.0, 1.0)), watch.Curve("score", (1, 4), (0.5, 0.75)))
        assert (watch.latest(job, "examples_per_s"), watch.latest(job, "no such")) == (300, None)
        assert watch.seconds(job) == 4  # since it ran
        assert watch.left_s(job) == pytest.approx(4 * 0.6 / 0.4)
        say(10, "state", state="paused")
        say(99, "alive")
        assert (watch.seconds(job), watch.left_s(job)) == (5, None)  # it stood still
        say(100, "state", state="running")
        say(101, "progress", **train(10, loss=float("nan"), score=0.8))
        assert [curve.x for curve in watch.curves(job)] == [(1, 4), (1, 4, 10)]
        say(102, "state", state="done")
    assert (watch.share(job), watch.seconds(job), watch.seconds_each(job)) == (1, 7, 7)


def test_of_several_trainings_the_curves_are_of_the_last(job: Job, say: Callable[..., None]) -> None:
    for step in (3, 9):
        say(step, "progress", **train(step, loss=step))
    for step in (1, 2):
        say(10 + step, "progress", **train(step, loss=-step))
    assert [c.y for c in watch.curves(job)] == [(-1, -2)]
    say(20, "progress", **train(3, 99, loss=5))
    assert [c.y for c in watch.curves(job)] == [(5,)]
    say(21, "stage")
    say(22, "progress", **train(1, 1, "recipe"))
    assert [c.y for c in watch.curves(job)] == [(5,)]  # still to be seen when it is over


def test_seeds_become_a_band_by_hand(job: Job, say: Callable[..., None]) -> None:
    """Two seeds of two epochs and one that has only begun; a report within an epoch gives way to the one at its end."""
    for seed, scores in ((0, (0.5, 0.75)), (1, (0.25, 1.0)), (2, (0.125,))):
        for epoch, score in enumerate(scores, 1):
            say(0, "progress", **train(2 * epoch - 1, epoch=epoch, seed=seed, score=0.0))
            say(0, "progress", **train(2 * epoch, epoch=epoch, seed=seed, score=score))
    found = watch.by_epoch(job, "score")
    assert found[1] == watch.Curve("score", (1, 2), (0.25, 1.0))
    assert watch.by_epoch(job, "loss") == {}
    assert watch.band([found[0], found[1]]) == watch.Band((1, 2), (0.375, 0.875), (0.25, 0.75), (0.5, 1.0))
    assert watch.band([found[0], found[2]]).x == (1,)
    one = watch.band([found[0]])
    assert one.mean == one.low == one.high == found[0].y


@pytest.mark.parametrize("count", [1, 299, 300, 301, 5000])
def test_long_trainings_are_thinned_and_keep_their_end(job: Job, say: Callable[..., None], count: int) -> None:
    for step in range(1, count + 1):
        say(step, "progress", **train(step, count, loss=step))
    [curve] = watch.curves(job)
    assert len(curve.x) <= watch.MOST_POINTS + 1
    assert (curve.x[0], curve.x[-1]) == (1, count)
    assert list(curve.x) == sorted(set(curve.x))
