"""The worker's side of a job, in this process: what a report writes, when it stands still, what ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelopt_core as mo
from modelopt_core.machine.events import Progress
from modelopt_core.steps.recipe import Stage
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import journal
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.process import explain, finished_steps, main
from modelopt_core.studies.jobs.worker import Cancelled, Worker
from tests.waiting import SOON_S, join, wait_until


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    plan = plans.make(owner="0" * 64, created_s=0.0, recipe={}, models=("mlp",), workload="digits")
    folder = tmp_path / ("0" * 32)
    folder.mkdir()
    (folder / plans.FILE).write_text(plan.model_dump_json())
    made = Worker(folder)
    yield made
    made.ended.set()
    made.place.give_back()


def events(worker: Worker) -> list[journal.Record]:
    return journal.Tail(worker.folder / jobs.EVENTS).read()


def reporting(worker: Worker, passed: list[int], count: int = 100) -> threading.Thread:
    def report() -> None:
        for step in range(count):
            try:
                worker(Progress("train", step, 1000, {"epoch": step}))
            except Cancelled:
                passed.append(-1)
                return
            passed.append(step)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    return thread


def test_commands_by_hand(worker: Worker) -> None:
    """Paused at the first report; each step lets one more pass; cancel ends it from the pause."""
    passed: list[int] = []
    worker.command("pause")
    thread = reporting(worker, passed)
    wait_until(lambda: worker.standing, "the pause", SOON_S)
    assert passed == []
    for count in (1, 2):
        worker.command("step")
        wait_until(lambda count=count: worker.standing and len(passed) == count, "one step and the pause", SOON_S)
        assert passed == [*range(count)]
    worker.command("no such command")
    worker.command(["step"])
    assert passed == [0, 1]
    worker.command("cancel")
    join(thread, "the cancelled recipe to end")
    assert passed == [0, 1, -1]
    assert [e["state"] for e in events(worker) if e["kind"] == "state"] == ["paused"] * 3


def test_step_while_running_pauses_and_resume_goes_on(worker: Worker) -> None:
    passed: list[int] = []
    worker.command("step")
    thread = reporting(worker, passed, 50)
    wait_until(lambda: worker.standing, "the pause", SOON_S)
    worker.command("resume")
    join(thread, "fifty reports")
    assert passed == [*range(50)]
    assert [e["state"] for e in events(worker) if e["kind"] == "state"] == ["paused", "running"]


def test_commands_come_through_the_file_and_silence_is_broken(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelopt_core.studies.jobs.worker.ALIVE_S", 0.05)
    (worker.folder / jobs.COMMANDS).write_bytes(b'nonsense\n{"command": "pause"}\n{"comm')
    threading.Thread(target=worker.watch, daemon=True).start()
    wait_until(
        lambda: worker.paused and [e["kind"] for e in events(worker)].count("alive") >= 2,
        "the command from the file and two signs of life",
        SOON_S,
    )


def test_a_recipe_that_does_not_report_is_ended(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Path] = []
    monkeypatch.setattr("modelopt_core.studies.jobs.worker.leave", left.append)
    threading.Thread(target=worker.watch, daemon=True).start()
    journal.append(worker.folder / jobs.COMMANDS, {"command": "cancel"})
    wait_until(lambda: left, "the process to be left", SOON_S)
    worker.finish("failed", "too late: the first word counts")
    worker.say("progress")
    assert [e.get("state") for e in events(worker) if e["kind"] != "alive"] == ["cancelled"]


def test_fast_progress_is_thinned_but_its_end_is_told(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelopt_core.studies.jobs.worker.TELL_EVERY_S", 10.0)
    for step in (1, 2, 3):
        worker(Progress("train", step, 3, {"loss": 0.5}))
    assert [(e["phase"], e["step"], e["total"], e["values"]) for e in events(worker)] == [
        ("train", 3, 3, {"loss": 0.5})
    ]


def test_after_thousands_of_lines_fewer_are_written(worker: Worker) -> None:
    worker.told, worker.told_s = 5000, time.monotonic()
    for step in (1, 2, 3):
        worker(Progress("train", step, 4))
        time.sleep(0.003)
    assert events(worker) == []


def test_a_process_that_comes_too_late_leaves_the_job_alone(worker: Worker) -> None:
    """Two windows said resume, and the other's process was first."""
    worker.say("state", state="queued")
    worker.say("state", state="queued", pid=1)
    worker.say("state", state="done")
    main(worker.folder)
    assert events(worker)[-1]["state"] == "done"
    assert not jobs.alive(worker.folder)


def test_the_best_model_is_written_at_once_and_then_now_and_then(worker: Worker) -> None:
    made: list[float] = []
    model = mo.baseline("digits", "mlp")

    def best() -> object:
        made.append(time.monotonic())
        return model

    for step in range(20):
        worker(Progress("train", step, 20, best=best))  # type: ignore[arg-type]
    assert len(made) == 1
    worker.keep_best()
    worker.keep_best()
    assert len(made) == 2
    assert (worker.folder / "best.mopt").is_file()
    assert [e["model"] for e in events(worker) if e["kind"] == "best"] == ["best.mopt"] * 2


def test_a_damaged_checkpoint_is_made_again(worker: Worker) -> None:
    path = worker.folder / f"{'a' * 64}.mopt"
    path.write_bytes(b"MOPT?")
    finished_steps(worker.folder)
    assert not path.exists()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "out of memory; choose a smaller model or batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; choose a smaller"),
        (ZeroDivisionError("by zero"), r"ZeroDivisionError: by zero; the whole report is in .*log.txt"),
        (mo.ModelOptError("unknown workload 'x'"), "unknown workload 'x'"),
    ],
)
def test_every_error_is_a_sentence(error: Exception, sentence: str, worker: Worker) -> None:
    assert mo.ModelOptError is not type(error) or explain(error, worker) == str(error)
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(explain(error, worker))


def test_a_trainings_checkpoint_is_kept_until_its_step_is_over(worker: Worker) -> None:
    later = worker.folder / "k3.safetensors"
    later.write_bytes(b"of a step that is not reached yet")
    assert worker.recall("k1") is None
    worker(Progress("train", 1, 3, checkpoint=lambda: b"one", training="k1"))
    worker(Progress("train", 2, 3, checkpoint=lambda: b"two", training="k1"))  # too soon after the first
    assert worker.recall("k2") is None
    assert worker.recall("k1") == b"one"
    digits, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    worker(Stage("Finetune()", 0, model, mo.measure(model, digits)))
    assert worker.recall("k1") is None
    assert later.exists()
