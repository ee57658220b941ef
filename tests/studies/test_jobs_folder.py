"""What the app sees of a job's folder, whoever wrote it; no process runs here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.steps.base import kept
from modelopt_core.steps.fuse import learned
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job, JobError, worker
from tests.waiting import LIMIT_S, SOON_S, wait_until

SHORT = (mo.Prune(ratio=0.3), mo.Finetune(epochs=4))
COUNT = """
import sys
from pathlib import Path
from modelopt_core.studies import jobs
print(jobs.running(Path(sys.argv[1])))
"""


@pytest.fixture
def draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Starts jobs whose process never comes."""
    process = SimpleNamespace(wait=threading.Event().wait)
    monkeypatch.setattr(
        jobs.job, "subprocess", SimpleNamespace(Popen=lambda *_, **__: process, DEVNULL=subprocess.DEVNULL)
    )

    def start(recipe: tuple[mo.Step, ...], **how: object) -> Job:
        return jobs.start(recipe, ["mlp"], "digits", **{"folder": tmp_path, **how})  # type: ignore[arg-type]

    return start


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([t.flatten().float() for t in model.state_dict().values()])


def test_owners_do_not_see_each_other(draft: Callable[..., Job], tmp_path: Path) -> None:
    first, second, other = draft(SHORT, owner="anna's"), draft(SHORT, owner="anna's"), draft(SHORT, owner="bob")
    assert [job.id for job in jobs.list("anna's", tmp_path)] == [second.id, first.id]
    assert [job.id for job in jobs.list("bob", tmp_path)] == [other.id]
    assert jobs.list("", tmp_path) == jobs.list("eve", tmp_path) == ()
    assert jobs.list("anna's", tmp_path / "nowhere") == ()
    assert len({first.id, second.id, other.id}) == 3
    assert b"anna" not in (first.path / "job.json").read_bytes()
    assert first.path.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("draft")
def test_models_handed_in_travel_as_files(tmp_path: Path) -> None:
    model = mo.Prune(ratio=0.5).apply(mo.baseline("digits", "mlp"), mo.workload("digits"))
    job = jobs.start(SHORT, ["mlp", model], "digits", folder=tmp_path)
    assert job.plan.models == ("mlp", name := f"{identity.key(model)}.mopt")
    assert torch.equal(weights(mo.load(job.path / name)), weights(model))


def test_a_job_of_several_models(tmp_path: Path) -> None:
    """What a step makes of a pool, and what a step makes of a joint model, come back under the keys of `apply`."""
    w, cnn = mo.workload("digits"), mo.baseline("digits", "cnn")
    pool = [mo.baseline("digits", "mlp"), mo.Prune(ratio=0.2).apply(cnn, w)]
    fused, teacher = mo.Fuse(of="outputs"), mo.Ensemble().apply(pool, w)
    student = mo.Distill(student="mlp", width=0.25, epochs=1)
    both = [
        jobs.start((fused,), ["mlp", pool[1]], "digits", folder=tmp_path, threads=1),
        jobs.start((student,), [teacher], "digits", folder=tmp_path, threads=1),
    ]
    wait_until(lambda: all(job.ended for job in both), "both jobs to end")
    assert [job.error for job in both] == [None, None]
    STORE.clear()
    for step, models in ((fused, pool), (student, [teacher])):
        assert not kept(step.key(models, w))
        assert jobs.recall(step.key(models, w), folder=tmp_path)
    again = fused.apply(pool, w)  # with what its file does not hold: how the head was found, what the folds say of val
    STORE.clear()
    made = fused.apply(pool, w)
    assert learned(again) == learned(made) is not None
    torch.testing.assert_close(*(mo.predictions(each, w).outputs.logits for each in (again, made)))


def test_a_process_that_never_speaks_has_failed(draft: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    job = draft(SHORT)
    assert (job.state, job.error, job.progress, job.best()) == ("queued", None, None, None)
    with pytest.raises(JobError, match="is queued; cancel it before removing it"):
        job.remove()
    monkeypatch.setattr(jobs.job, "START_S", 0)
    assert (job.state, job.error) == ("failed", jobs.DIED)


def test_a_process_that_dies_before_its_first_word_is_told_of_at_once(
    draft: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = SimpleNamespace(wait=lambda: -9)
    monkeypatch.setattr(
        jobs.job, "subprocess", SimpleNamespace(Popen=lambda *_, **__: dead, DEVNULL=subprocess.DEVNULL)
    )
    job = draft(SHORT)
    wait_until(lambda: job.state == "failed", "the death of the process to be noticed", SOON_S)
    assert job.error == jobs.DIED


def test_a_living_process_is_known_by_its_lock(draft: Callable[..., Job], tmp_path: Path) -> None:
    job, other = draft(SHORT), draft(SHORT)
    assert jobs.running(tmp_path) == 0
    with FileLock(job.path / "alive"), FileLock(other.path / "alive"):
        command = [sys.executable, "-c", COUNT, str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.stdout.strip() == "2"
    assert jobs.running(tmp_path) == 0


def test_cores_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    for count, threads in [(0, 8), (1, 4), (2, 2), (3, 2), (20, 1)]:
        monkeypatch.setattr(jobs, "running", lambda _, count=count: count)
        assert worker.share(tmp_path) == threads


@pytest.mark.parametrize("id", ["", "../x", "/etc", "0" * 32, "0" * 31 + "/", "A" * 32])
def test_an_unknown_id_is_one_sentence(id: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no job '.*'; it may have been removed"):
        jobs.find(id, tmp_path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"seed": -1}, "a job cannot be started: seed=-1: Input should be greater than or equal to 0"),
        ({"seed": 2**63}, "a job cannot be started: seed=9223372036854775808"),
        ({"threads": 0}, "a job cannot be started: threads=0"),
    ],
)
def test_what_cannot_be_started(
    how: dict[str, object], message: str, draft: Callable[..., Job], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=message):
        draft(SHORT, **how)
    with pytest.raises(JobError, match="a job cannot be started: models="):
        jobs.start(SHORT, [], "digits", folder=tmp_path)
    with pytest.raises(ModelOptError, match="cannot say how to build Linear"):
        jobs.start(SHORT, [torch.nn.Linear(2, 2)], "digits", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_access_is_one_sentence(
    draft: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelOptError, match=r"cannot make the folder '.*' \(Not a directory\); set MODELOPT_JOBS"):
        draft(SHORT, folder=tmp_path / "file")
    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path / "file"))
    with pytest.raises(ModelOptError, match="set MODELOPT_JOBS to one with write access"):
        draft(SHORT, folder=None)
    monkeypatch.delenv("MODELOPT_JOBS")
    assert jobs.home().name == "jobs"


def test_a_disk_that_fills_while_starting_leaves_no_folder(
    draft: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ModelOptError("cannot write 'job.json' (No space left on device); choose a folder with room")

    monkeypatch.setattr(jobs.atomic, "write", full)
    with pytest.raises(ModelOptError, match="No space left on device"):
        draft(SHORT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"version": 2}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 9999,
        b" " * 2**21,
    ],
    ids=lambda content: content[:8].hex(),
)
def test_a_plan_that_is_none_is_one_typed_error(content: bytes, draft: Callable[..., Job], tmp_path: Path) -> None:
    job, sound = draft(SHORT), draft(SHORT)
    (job.path / "job.json").write_bytes(content)
    with pytest.raises(JobError, match=r"job.json' is not the plan of a job \(.*\); remove its folder"):
        jobs.find(job.id, tmp_path)
    assert [found.id for found in jobs.list("", tmp_path)] == [sound.id]


def test_pipes_and_links_are_not_opened(draft: Callable[..., Job], tmp_path: Path) -> None:
    job = draft(SHORT)
    for name, message in (("events.jsonl", "is not a plain file"), ("job.json", "is not the plan of a job")):
        (job.path / name).unlink()
        os.mkfifo(job.path / name)
        with pytest.raises(ModelOptError, match=message):
            _ = jobs.find(job.id, tmp_path).state
        (job.path / name).unlink()
        (job.path / name).symlink_to("/dev/zero")
        with pytest.raises(ModelOptError, match=message):
            _ = jobs.find(job.id, tmp_path).state


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "stage", "label": 3, "branch": "x", "model": "0" * 64 + ".mopt", "measurement": 7},
        {"kind": "stage", "model": "../../../etc/passwd"},
        {"kind": "stage", "model": ["best.mopt"]},
        {"kind": "stage", "model": "best.mopt"},
        {"kind": "progress", "phase": "train", "step": "x", "total": 1, "values": {}},
        {"kind": "progress", "phase": "train", "step": 1, "total": float("inf"), "values": {}},
        {"kind": "progress", "values": 3},
    ],
)
def test_hostile_events_are_one_typed_error(event: dict[str, object], draft: Callable[..., Job]) -> None:
    job = draft(SHORT)
    with (job.path / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n" + json.dumps({"kind": "state", "state": "done"}) + "\n")
    with pytest.raises(ModelOptError):
        _ = job.progress, job.best(), job.result()


@pytest.mark.parametrize("event", [{"kind": 3}, {"kind": "state"}, {"kind": "state", "state": "on"}, {"kind": "x"}])
def test_events_that_mean_nothing_are_passed_over(event: dict[str, object], draft: Callable[..., Job]) -> None:
    job = draft(SHORT)
    with (job.path / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    assert job.state in jobs.STATES
