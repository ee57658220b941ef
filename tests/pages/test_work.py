"""Long work on a page: it never trains itself, it says what it does not know, and a finished job is a live setting."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from streamlit.testing.v1 import AppTest

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import STORE
from modelopt_core.steps import finetune
from modelopt_core.steps.base import kept
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job, journal
from modelopt_core.studies.jobs import plan as plans
from pages.state import at_hand, bench, owner
from pages.state.setting import Setting
from pages.state.stack import Stack
from pages.work import launch, trial
from tests.waiting import LIMIT_S, wait_until

STEP = mo.Finetune(epochs=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """One job of ann's that a process has done, for all tests here."""
    job = jobs.start((STEP,), ["mlp"], "digits", owner="ann", threads=1, folder=tmp_path_factory.mktemp("jobs"))
    wait_until(lambda: job.state in jobs.ENDED, "the job to end")
    assert (job.state, job.error) == ("done", None)
    return job


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Job folders of the test's own, an empty memory, and no page may train."""
    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path))
    monkeypatch.setattr("modelopt_core.runtime.latency.REPEATS", 3)
    monkeypatch.setattr(finetune, "fit", lambda *_, **__: pytest.fail("a page trained"))
    STORE.clear()
    return tmp_path


@pytest.fixture
def done(finished: Job, home: Path) -> Job:
    """A copy of the finished job where the page looks."""
    shutil.copytree(finished.path, home / finished.id)
    return jobs.find(finished.id)


@contextmanager
def living(home: Path, grid: dict[str, Any] | None = None, **events: dict[str, Any]) -> Iterator[Job]:
    """A job that seems to have a process, which said what `events` says: kind → values."""
    plan = plans.make(owner=plans.hashed("ann"), created_s=time.time(), recipe=plans.recipe((STEP,)), models=("mlp",),
                      workload="digits", grid=grid)  # fmt: skip
    path = home / f"{len([*home.iterdir()]):032x}"
    path.mkdir()
    (path / plans.FILE).write_text(plan.model_dump_json())
    for kind, values in events.items():
        journal.append(path / jobs.EVENTS, {"time_s": time.time(), "kind": kind, **values})
    with FileLock(path / jobs.LOCK):
        yield jobs.find(path.name)


def open_page(root: Path, owner: str = "ann", **url: str) -> AppTest:
    """The page of Finetune as a new session of this browser."""
    app = AppTest.from_file(str(root / "tests/apps/work_app.py"), default_timeout=LIMIT_S)
    app.session_state["owner"] = owner
    for name, value in {"epochs": "2", "model": "mlp", **url}.items():
        app.query_params[name] = value
    return app.run()


def texts(app: AppTest) -> str:
    assert not app.exception
    return " ".join(h.value for h in app.html if "<style>" not in h.value)


def test_what_is_not_measured_says_so_and_a_click_starts_a_job(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(jobs.job.Job, "launch", lambda job: begun.append(job))
    app = open_page(root)
    assert "Not measured" in texts(app)
    assert "mo-score" not in texts(app)
    app.button("work-run").click().run()
    [job] = jobs.list("ann", recipe=(STEP,), models=("mlp",), workload="digits")
    assert [each.id for each in begun] == [job.id]
    assert jobs.list("ann", recipe=(STEP.changed(epochs=3),)) == ()
    assert "Starting" in texts(app)


def test_a_finished_job_is_a_live_setting_in_a_new_session(root: Path, done: Job) -> None:
    app = open_page(root)
    assert "mo-score" in texts(app)
    assert "Not measured" not in texts(app)
    assert [run.step for run in app.session_state["runs"]] == [STEP]
    other = texts(open_page(root, epochs="3"))
    assert "Not measured" in other
    assert "The last Finetune here took" in other


def test_the_job_gives_the_key_and_the_bits_of_apply(done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    work, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    key = STEP.key([model], work)
    assert not kept(key)
    assert not jobs.recall(key, "bob")
    assert jobs.recall(key, "ann")
    recalled = STEP.apply(model, work)  # would fail if it trained
    monkeypatch.undo()
    STORE.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = STEP.apply(model, work)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(recalled.parameters(), made.parameters(), strict=True))


def test_a_step_of_several_that_lasts_waits_for_its_job(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "token", lambda: "ann")
    monkeypatch.setattr(mo.Fuse, "lasts", lambda step, workload: True)
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    here, step = bench.Bench(w, "cnn", model, "onnx", "cpu", "tune"), mo.Fuse(of="outputs")
    asked = Setting(here, step, members=(Stack("mlp", ()), Stack("cnn", (mo.Prune(ratio=0.2),))))
    assert not launch.kept(asked)
    with pytest.raises(ModelOptError, match="Fuse is not measured with this setting; run it on its page first"):
        at_hand.apply(step, asked.models, w)
    job = jobs.start((step,), launch.handed(asked), "digits", owner="ann", threads=1)
    assert launch.found(asked).id == job.id  # type: ignore[union-attr]
    wait_until(lambda: job.state in jobs.ENDED, "the job to end")
    assert launch.kept(asked)
    assert trial.measure(asked).measurement.score.n == len(w.val)


def test_owners_do_not_see_each_others_work(root: Path, done: Job) -> None:
    assert "Not measured" in texts(open_page(root, owner="bob"))
    assert "mo-score" in texts(open_page(root))


def test_a_damaged_result_can_be_run_again(root: Path, done: Job) -> None:
    for path in done.path.glob("*.mopt"):
        path.write_bytes(b"MOPT?")
    app = open_page(root)
    assert "Not measured" in texts(app)
    assert app.button("work-run").label == "Run"


@pytest.mark.parametrize("view", ["learn", "present"])
def test_every_view_says_that_it_is_not_measured(root: Path, view: str) -> None:
    app = open_page(root, view=view)
    for _ in range(2):
        assert "Not measured" in texts(app)
        app.run()


def test_buttons_become_commands(root: Path, home: Path) -> None:
    with living(
        home, state={"state": "running"}, progress={"phase": "train", "step": 3, "total": 9, "values": {}}
    ) as job:
        app = open_page(root)
        assert "Running" in texts(app)
        for key in ("work-pause", "work-step", "work-cancel"):
            app.button(key).click().run()
        journal.append(job.path / jobs.EVENTS, {"time_s": time.time(), "kind": "state", "state": "paused"})
        app.run()
        assert "Paused" in texts(app)
        app.button("work-resume").click().run()
    said = [json.loads(line)["command"] for line in (job.path / jobs.COMMANDS).read_text().splitlines()]
    assert said == ["pause", "step", "cancel", "resume"]


@pytest.mark.parametrize("error", ["loss is nan in epoch 2; choose lr below 1e+09", "out of memory; <b>close</b> it"])
def test_what_went_wrong_is_said_with_what_is_kept(root: Path, home: Path, error: str) -> None:
    with living(home, best={"model": "best.mopt"}, state={"state": "failed", "error": error}):
        pass
    app = open_page(root)
    assert "Ended early" in texts(app)
    assert error.replace("<", "&lt;").replace(">", "&gt;") in texts(app)
    assert "last good model is kept" in texts(app)
    assert {b.key for b in app.button} >= {"work-run", "work-resume"}


def test_a_pin_of_a_setting_that_is_not_kept_trains_nothing(root: Path, done: Job) -> None:
    def pinned(epochs: int) -> AppTest:
        return open_page(
            root, pin=json.dumps({"on": "digits/mlp", "version": 1, "steps": [{"step": "Finetune", "epochs": epochs}]})
        )

    app = pinned(7)
    assert any("run it on its page first" in str(t.value) for t in app.toast)
    assert "pin" not in app.query_params
    assert "against mlp · Finetune(epochs=2)" in texts(pinned(2))


def test_the_curve_is_what_jobs_have_measured(home: Path, done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "token", lambda: "ann")
    here = bench.Bench(mo.workload("digits"), "mlp", mo.baseline("digits", "mlp"), "onnx", "cpu", "tune")
    known = launch.curve(Setting(here, STEP.changed(epochs=9)), "epochs")
    assert ([point.value for point in known.points], known.done, known.progress) == ([2], True, None)
    assert launch.curve(Setting(here, STEP.changed(lr=0.5)), "epochs").points == []
    grid = {"field": "epochs", "values": (1, 20), "seeds": (0, 1)}
    with living(home, grid, state={"state": "running"}) as job:
        known = launch.curve(Setting(here, STEP), "epochs")
        assert (known.done, known.progress) == (False, (0, 4))
        assert launch.found(Setting(here, STEP.changed(epochs=20))) is not None
        assert launch.found(Setting(here, STEP.changed(epochs=5))) is None
        journal.append(job.path / jobs.EVENTS, {"time_s": 1.0, "kind": "state", "state": "failed", "error": "no"})
    known = launch.curve(Setting(here, STEP), "epochs")
    assert (known.done, known.error) == (True, "no")


def test_a_curve_can_be_ordered_and_stopped(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    app = open_page(root)
    app.get_by_key("curve-seeds").set_value(3)
    app.button("curve-run").click().run()
    [job] = jobs.list("ann")
    assert job.plan.grid is not None
    assert (job.plan.grid.field, job.plan.grid.seeds) == ("epochs", (0, 1, 2))
    assert job.plan.grid.values[:2] == (1, 20)  # the ends first
    assert job.plan.grid.known == ()
    assert "Measuring the curve: starting" in texts(app)
    with FileLock(job.path / jobs.LOCK):
        app.button("curve-cancel").click().run()
    assert (job.path / jobs.COMMANDS).read_text().strip() == '{"command":"cancel"}'


def test_a_curve_leaves_out_what_a_job_has_measured(
    root: Path, home: Path, done: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    app = open_page(root, epochs="7")
    app.button("curve-run").click().run()
    [job] = [each for each in jobs.list("ann") if each.id != done.id]
    assert job.plan.grid is not None
    assert job.plan.grid.known == ((2, 0),)


@pytest.mark.parametrize("recipe", [{}, {"steps": []}, {"steps": 3}, {"steps": [3]}, {"steps": [{"step": "Gone"}]}])
def test_a_damaged_job_leaves_the_others(root: Path, home: Path, done: Job, recipe: dict[str, Any]) -> None:
    with living(home, point={"value": "x"}, state={"state": "done"}) as job:
        plan = job.plan.model_copy(update={"recipe": recipe})
        (job.path / plans.FILE).write_text(plan.model_dump_json())
    with living(home, point={"value": "x", "seed": 0}, state={"state": "done"}):
        pass
    app = open_page(root)
    assert "mo-score" in texts(app)
    assert not app.warning


def jobs_list() -> None:
    """The rows of the sidebar's list, alone on a page."""
    from pages.work import launch, work_list

    for job in launch.mine():
        work_list.one(job, {})


def test_the_list_of_jobs(home: Path, done: Job) -> None:
    app = AppTest.from_function(jobs_list, default_timeout=LIMIT_S)
    app.session_state["owner"] = "ann"
    with living(home, state={"state": "running"}) as job:
        said = texts(app.run())
        assert "Finetune(epochs=2)" in said
        assert "Digits, mlp · Done" in said
        assert "Digits, mlp · Running" in said
        app.button(f"stop-{job.id}").click().run()
        app.button(f"delete-{done.id}").click().run()
    assert "cancel" in (job.path / jobs.COMMANDS).read_text()
    assert not done.path.exists()
