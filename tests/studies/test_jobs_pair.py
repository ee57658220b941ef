"""Two results in one job: whose turn it is, that nothing but the order changes, what is kept, what is found again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.events import Keeper, Progress, Relay, Report
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job, JobError, watch
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.pairs import PLAIN, Paired, in_turns, make
from modelopt_core.studies.jobs.process import explain
from modelopt_core.studies.jobs.response import response
from modelopt_core.studies.jobs.worker import Worker
from modelopt_core.training.loop import TrainingError

STEP = mo.Distill(epochs=3, batch_size=256)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is not under test."""
    monkeypatch.setattr("modelopt_core.runtime.latency.REPEATS", 3)


def state(model: nn.Module) -> torch.Tensor:
    return torch.cat([t.flatten().float() for t in model.state_dict().values()])


def counting(epochs: int, value: float) -> Callable[..., str]:
    """A work that reports so many epochs of ten steps, in two halves each."""

    def work(report: Report) -> str:
        for epoch in range(1, epochs + 1):
            report(Progress("train", 10 * epoch - 5, 10 * epochs, {"epoch": epoch, "loss": value}))
            report(Progress("train", 10 * epoch, 10 * epochs, {"epoch": epoch, "score": value}, checkpoint=bytes))
        return f"made {value}"

    return work


def test_turns_by_hand() -> None:
    """An epoch of one, an epoch of the other; steps are those of both, so that the bar only moves forward."""
    told: list[Progress] = []
    made = in_turns([counting(2, 1.0), counting(2, 2.0)], lambda e: told.append(e) if e else None, ("", " alone"), 7)
    assert made == ["made 1.0", "made 2.0"]
    names = [next(name for name in event.values if name not in PLAIN) for event in told]
    assert names == ["loss", "score", "loss alone", "score alone"] * 2
    assert [event.step for event in told] == [2, 5, 7, 10, 12, 15, 17, 20]
    assert {(event.total, event.values["seed"]) for event in told} == {(20, 7)}


def test_of_unequal_works_the_longer_goes_on_alone() -> None:
    told: list[Progress] = []
    in_turns([counting(1, 1.0), counting(3, 2.0)], lambda e: told.append(e) if e else None, ("", " alone"), 0)
    assert [event.values["epoch"] for event in told if event.checkpoint] == [1, 1, 2, 3]
    told.clear()
    in_turns([lambda report: "kept", counting(1, 2.0)], lambda e: told.append(e) if e else None, ("", ""), 0)
    assert told[-1].step == told[-1].total
    assert in_turns([], told.append, (), 0) == []


def test_one_that_fails_ends_the_other() -> None:
    def broken(report: Report) -> str:
        counting(1, 1.0)(report)
        raise mo.ModelOptError("lr is too high")

    def left() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("in turns")]

    with pytest.raises(mo.ModelOptError, match="alone: lr is too high"):
        in_turns([counting(9, 1.0), broken], lambda _: None, ("", " alone"), 0)
    assert left() == []

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.step >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turns([counting(9, 1.0), counting(9, 2.0)], stop, ("", " alone"), 0)
    assert left() == []


def written(home: Path, seeds: tuple[int, ...] = (0,)) -> tuple[Worker, Job]:
    """A job's folder and its worker, without a process."""
    folder = home / f"{0:032x}"
    folder.mkdir()
    against = plans.recipe((STEP.alone,))
    plan = plans.make(owner=plans.hashed(""), created_s=0.0, recipe=plans.recipe((STEP,)), models=("cnn",),
                      workload="digits", pair={"against": against, "seeds": seeds})  # fmt: skip
    (folder / plans.FILE).write_text(plan.model_dump_json())
    worker = Worker(folder)
    worker.say("state", state="running")
    return worker, jobs.find(folder.name, home)


def test_the_results_are_those_of_apply(tmp_path: Path) -> None:
    work, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    STORE.clear()
    worker, job = written(tmp_path, (0, 1))
    assert isinstance(worker, Keeper)
    threads = torch.get_num_threads()
    make((STEP, STEP.alone), (0,), model, work, worker)
    assert watch.share(job) == 1 / 2
    make((STEP, STEP.alone), (1,), model, work, worker)
    assert torch.get_num_threads() == threads
    assert job.paired == [(False, 0), (True, 0), (False, 1), (True, 1)]
    for name in ("score", "score alone"):
        assert {seed: curve.x for seed, curve in watch.by_epoch(job, name).items()} == {0: (1, 2, 3), 1: (1, 2, 3)}
    worker.say("state", state="done")
    assert watch.share(job) == 1
    points = response([job], STEP, "temperature")
    assert [(p.value, p.measurement.score.n) for p in points] == [(STEP.temperature, 2)]
    STORE.clear()
    for step in (STEP, STEP.alone):
        for seed in (0, 1):
            assert jobs.recall(step.key([model], work, seed), folder=tmp_path)
            recalled = state(step.apply(model, work, seed=seed))
            STORE.clear()
            assert torch.equal(recalled, state(step.apply(model, work, seed=seed)))
    assert not list(job.path.glob("*.safetensors"))  # checkpoints of what is over


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    work, model, told = mo.workload("digits"), mo.baseline("digits", "cnn"), list[object]()
    make((STEP, STEP.alone), (0, 1), model, work, told.append, skip=[(False, 0), (True, 0), (False, 1)])
    assert [(p.alone, p.seed, p.label) for p in told if isinstance(p, Paired)] == [(True, 1, STEP.alone.label)]


@dataclass(frozen=True, eq=False)
class Killed(Relay):
    """Passes all on, and dies as soon as there are two checkpoints."""

    def __call__(self, event: object) -> None:
        super().__call__(event)
        assert isinstance(self.report, Worker)
        if len(list(self.report.folder.glob("*.safetensors"))) == 2:
            raise KeyboardInterrupt


def test_a_pair_that_died_goes_on_from_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends with the bits of one that never died."""
    monkeypatch.setattr("modelopt_core.studies.jobs.worker.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("modelopt_core.studies.jobs.worker.CHECKPOINT_SHARE", 1e9)
    work, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    STORE.clear()
    worker, job = written(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        make((STEP, STEP.alone), (0,), model, work, Killed(worker))
    seen = len(job.events())
    make((STEP, STEP.alone), (0,), model, work, Worker(job.path), skip=job.paired)
    epochs = [e["values"]["epoch"] for e in job.events(seen) if e.get("phase") == "train"]
    assert min(epochs) == 2
    made = [state(step.apply(model, work)) for step in (STEP, STEP.alone)]
    STORE.clear()
    for found, step in zip(made, (STEP, STEP.alone), strict=True):
        assert torch.equal(found, state(step.apply(model, work)))


def test_a_training_that_breaks_down_keeps_the_first_ones_best(tmp_path: Path) -> None:
    """lr = 1e9 in either; what is kept is a model of the step itself, not of the one beside it."""
    work, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    wild = STEP.changed(lr=1e9)
    with pytest.raises(TrainingError, match=r"^loss is .*choose lr below 1e\+09"):
        make((wild, STEP.alone), (0,), model, work, lambda _: None)
    worker, job = written(tmp_path)
    with pytest.raises(mo.ModelOptError, match=r"^alone: loss is .*choose lr below 1e\+09") as broken:
        make((STEP.changed(epochs=40), wild.alone.changed(epochs=40)), (0,), model, work, worker)
    assert explain(broken.value, worker) == str(broken.value)
    assert not isinstance(broken.value, TrainingError)
    best = job.best()
    assert best is not None
    assert bool(torch.isfinite(state(best)).all())


def test_what_cannot_be_paired_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="a job cannot be started: pair.seeds="):
        jobs.pair(STEP, STEP.alone, "cnn", "digits", seeds=(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert STEP.beside == STEP.alone
    assert STEP.alone.beside is None
    assert mo.Prune().beside is None
