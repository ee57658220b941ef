"""Sweeps as jobs: the order of a grid, what one process measures, what is known of a curve from several jobs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.events import Note
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job, JobError, watch
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.grid import Grid, Swept, over_seeds, setting, sweep
from modelopt_core.studies.jobs.response import response
from modelopt_core.studies.jobs.worker import Worker
from modelopt_core.tasks.statistics import Estimate
from tests.waiting import SOON_S, wait_until

STEP = mo.Prune(granularity="weight", recovery="none")


def written(home: Path, step: mo.Transform, grid: Grid | None = None, number: int = 0) -> tuple[Worker, Job]:
    """A job's folder and its worker, without a process."""
    folder = home / f"{number:032x}"
    folder.mkdir()
    plan = plans.make(owner=plans.hashed(""), created_s=float(number), recipe=plans.recipe((step,)), models=("mlp",),
                      workload="digits", grid=grid and grid.model_dump())  # fmt: skip
    (folder / plans.FILE).write_text(plan.model_dump_json())
    worker = Worker(folder)
    worker.say("state", state="running")
    return worker, jobs.find(folder.name, home)


def test_a_grid_goes_over_all_values_before_the_next_seed() -> None:
    grid = Grid(field="ratio", values=(0.0, 0.9, 0.5, 0.9), seeds=(3, 1, 3))
    assert grid.places == [(0.0, 3), (0.9, 3), (0.5, 3), (0.0, 1), (0.9, 1), (0.5, 1)]
    assert grid.model_copy(update={"known": ((0.9, 3), (0.5, 1), (7.0, 0))}).places == [
        (0.0, 3), (0.5, 3), (0.0, 1), (0.9, 1)
    ]  # fmt: skip
    assert setting(mo.Finetune(), "epochs", 4.0) == mo.Finetune(epochs=4)


def test_seeds_become_one_point_by_hand() -> None:
    found = mo.measure(mo.baseline("digits", "mlp"), mo.workload("digits"))
    three = [replace(found, score=Estimate(s, s, s, 360), size_bytes=n) for s, n in ((0.9, 1), (0.5, 2), (0.7, 3))]
    one = over_seeds(three)
    assert (one.score.value, one.score.low, one.score.high, one.score.n) == (pytest.approx(0.7), 0.5, 0.9, 3)
    assert one.size_bytes == 3  # of the median score
    assert over_seeds(three[:1]) is three[0]


def test_every_place_is_measured_as_apply_and_measure_do(tmp_path: Path) -> None:
    work, model, told = mo.workload("digits"), mo.baseline("digits", "mlp"), list[object]()
    grid = Grid(field="ratio", values=(0.9, 0.1), seeds=(0, 1))
    sweep(STEP, grid, model, work, told.append, skip=[(0.1, 0)])
    points = [event for event in told if isinstance(event, Swept)]
    assert [(p.value, p.seed) for p in points] == [(0.9, 0), (0.9, 1), (0.1, 1)]
    expected = mo.measure(STEP.changed(ratio=0.9).apply(model, work, seed=1), work, baseline=model)
    assert (points[1].measurement.score, points[1].measurement.nonzero) == (expected.score, expected.nonzero)

    worker, job = written(tmp_path, STEP, grid)
    for number, point in enumerate(points):
        assert watch.share(job) == number / 4
        worker(point)
    assert [(value, seed) for value, seed, _ in job.measured("ratio")] == [(0.9, 0), (0.9, 1), (0.1, 1)]
    kept = [STEP.changed(ratio=0.9).key([model], work, seed) for seed in grid.seeds]
    assert [(job.path / f"{key}.mopt").is_file() for key in kept] == [True, False]  # of the first seed only
    worker.say("state", state="done")
    assert watch.share(job) == 1


def test_a_curve_is_what_all_jobs_know_of_it(tmp_path: Path) -> None:
    work, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    grid = Grid(field="ratio", values=(0.2, 0.4), seeds=(0, 1))
    swept, grid_job = written(tmp_path, STEP, grid, 1)
    sweep(STEP, grid, model, work, swept)
    alone, single = written(tmp_path, STEP.changed(ratio=0.8), number=2)
    mo.run((STEP.changed(ratio=0.8),), [model], work, report=alone)
    _, other = written(tmp_path, STEP.changed(criterion="random"), Grid(field="ratio", values=(0.6,)), 3)
    found = {p.value: p.measurement for p in response([other, single, grid_job], STEP, "ratio")}
    assert sorted(found) == [0.2, 0.4, 0.8]
    assert (found[0.2].score.n, found[0.8].score.n) == (2, len(work.val))
    assert found[0.2].score.low <= found[0.2].score.value <= found[0.2].score.high
    assert response([grid_job], STEP, "size") == []


def test_notes_come_back_with_the_model(tmp_path: Path) -> None:
    step = mo.Prune(granularity="n:m", ratio=0.9, recovery="none")
    work, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    worker, _ = written(tmp_path, step)
    mo.run((step,), [model], work, report=worker)
    STORE.clear()
    assert jobs.recall(step.key([model], work), folder=tmp_path)
    told: list[object] = []
    step.apply(model, work, report=told.append)
    assert [str(note.text)[:4] for note in told if isinstance(note, Note)] == ["1:4:"]


def test_what_cannot_be_swept_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(mo.ModelOptError, match="Prune has no knob 'speed'; choose from ratio"):
        jobs.sweep(STEP, "speed", [1], "mlp", "digits", folder=tmp_path)
    with pytest.raises(mo.ModelOptError, match="ratio=2.0 is not allowed"):
        jobs.sweep(STEP, "ratio", [0.1, 2.0], "mlp", "digits", folder=tmp_path)
    with pytest.raises(JobError, match="a job cannot be started: grid.values="):
        jobs.sweep(STEP, "ratio", [], "mlp", "digits", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_died_goes_on_with_the_first_point_that_it_lacks(tmp_path: Path) -> None:
    step = mo.Finetune(batch_size=16)
    job = jobs.sweep(step, "epochs", [1, 5, 2], "mlp", "digits", seeds=(0, 1), threads=1, folder=tmp_path)
    wait_until(lambda: job.measured("epochs"), "the first place of the curve")
    os.kill(next(int(e["pid"]) for e in reversed(job.events()) if "pid" in e), signal.SIGKILL)
    wait_until(lambda: job.state == "failed", "the death of the process to be noticed", SOON_S)
    job.resume()
    wait_until(lambda: job.ended, "the resumed job to end")
    assert (job.state, job.error) == ("done", None)
    assert [place[:2] for place in job.measured("epochs")] == [(1, 0), (5, 0), (2, 0), (1, 1), (5, 1), (2, 1)]
    STORE.clear()
    key = step.changed(epochs=5).key([mo.baseline("digits", "mlp")], mo.workload("digits"))
    assert jobs.recall(key, folder=tmp_path)
    assert watch.seconds_each(job) == pytest.approx(watch.seconds(job) / 6)
