"""How many jobs work at once, and which folders go when they are old."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import modelopt_core as mo
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import JobError, journal, places
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.places import Place
from modelopt_core.studies.jobs.tidy import DAY_S, tidy
from modelopt_core.studies.jobs.worker import Cancelled, Worker
from tests.waiting import SOON_S, join, wait_until

ANN, BOB = plans.hashed("ann"), plans.hashed("bob")


def written(home: Path, number: int, owner: str = ANN, state: str = "done") -> Path:
    """A job's folder of 1,000 bytes and a few, without a process."""
    folder = home / f"{number:032x}"
    folder.mkdir()
    plan = plans.make(owner=owner, created_s=float(number), recipe={"steps": []}, models=("mlp",), workload="digits")
    (folder / plans.FILE).write_text(plan.model_dump_json())
    (folder / "best.mopt").write_bytes(bytes(1000))
    journal.append(folder / jobs.EVENTS, {"time_s": 0.0, "kind": "state", "state": state})
    return folder


def aged(folder: Path, seconds: float) -> Path:
    then = time.time() - seconds
    for path in (folder / jobs.EVENTS, folder):
        os.utime(path, (then, then))
    return folder


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(written(tmp_path, 7, state="queued"))
    yield made
    made.ended.set()
    made.place.give_back()


def test_places_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "in_all", lambda: 3)
    first, second, third, other, last = (Place(tmp_path, owner) for owner in (ANN, ANN, ANN, BOB, BOB))
    assert (first.take(), second.take(), third.take()) == (True, True, False)  # two of an owner
    assert (other.take(), last.take()) == (True, False)  # three of all
    assert last.held == []  # half a place is none
    first.give_back()
    assert (third.take(), third.take(), last.take()) == (True, True, False)
    second.give_back()
    assert last.take()
    for place in (third, other, last):
        place.give_back()


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        mo.ModelOptError, match=r"cannot lock a file in '.*places' \(Not a directory\); set MODELOPT_JOBS"
    ):
        Place(tmp_path / "file", ANN).take()


def test_a_job_waits_for_a_place_and_gives_it_back_while_it_stands(worker: Worker) -> None:
    others = [Place(worker.folder.parent, ANN) for _ in range(places.OF_AN_OWNER)]
    assert all(place.take() for place in others)
    entered: list[str] = []

    def work() -> None:
        worker.enter()
        entered.append("in")
        try:
            for _ in range(10_000):  # 20 s and more: it is cancelled long before
                worker(None)
                time.sleep(0.002)
        except Cancelled:
            entered.append("out")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(0.1)
    assert entered == []
    others.pop().give_back()
    wait_until(lambda: entered == ["in"], "the job to get the free place", SOON_S)
    worker.command("pause")
    wait_until(lambda: worker.standing, "the pause", SOON_S)
    wait_until(
        lambda: Place(worker.folder.parent, ANN).take(), "the place of the paused job", SOON_S
    )  # its locks are let go with it
    worker.command("resume")
    wait_until(lambda: bool(worker.place.held), "the resumed job to get a place", SOON_S)
    worker.command("cancel")
    join(thread, "the cancelled job to end")
    assert entered == ["in", "out"]


def test_a_waiting_job_can_be_cancelled(worker: Worker) -> None:
    others = [Place(worker.folder.parent, ANN) for _ in range(places.OF_AN_OWNER)]
    assert all(place.take() for place in others)
    worker.command("cancel")
    with pytest.raises(Cancelled):
        worker.enter()


def test_too_many_jobs_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MOST_OF_AN_OWNER", 1)
    monkeypatch.setattr(jobs, "MOST", 2)
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    step = mo.Finetune()
    with FileLock(written(tmp_path, 1, state="running") / jobs.LOCK):
        with pytest.raises(
            JobError, match="1 jobs of yours run or wait already; cancel one, or wait until one is done"
        ):
            jobs.start((step,), ["mlp"], "digits", owner="ann", folder=tmp_path)
        jobs.start((step,), ["mlp"], "digits", owner="bob", folder=tmp_path)
        with (
            FileLock(written(tmp_path, 2, BOB, state="running") / jobs.LOCK),
            pytest.raises(JobError, match="2 jobs of everybody run or wait already"),
        ):
            jobs.start((step,), ["mlp"], "digits", owner="eve", folder=tmp_path)


def test_old_folders_go_and_living_ones_stay(tmp_path: Path) -> None:
    old, young = aged(written(tmp_path, 1), 3 * DAY_S), aged(written(tmp_path, 2), DAY_S)
    living = aged(written(tmp_path, 3, state="running"), 9 * DAY_S)
    half, fresh_half = tmp_path / f"{4:032x}", tmp_path / f"{5:032x}"
    for folder in (half, fresh_half):
        folder.mkdir()
    aged(written(tmp_path, 6), 0)
    os.utime(half, (0, 0))
    (tmp_path / f"{9:032x}").symlink_to(young)
    with FileLock(living / jobs.LOCK):
        gone = tidy(tmp_path.glob("0*"), age_s=2 * DAY_S)
    assert sorted(gone) == [old.name, half.name]
    assert young.exists() and living.exists() and fresh_half.exists()  # noqa: PT018


def test_the_oldest_go_until_the_rest_is_small(tmp_path: Path) -> None:
    folders = [aged(written(tmp_path, number), number * 1000) for number in (1, 2, 3)]
    each = sum(path.stat().st_size for path in folders[0].iterdir())
    assert tidy(folders, most_bytes=3 * each) == []
    assert tidy(folders, most_bytes=3 * each - 1) == [folders[2].name]
    assert tidy(folders[:2], most_bytes=0) == [folders[1].name, folders[0].name]
    assert tidy(folders) == []
    shutil.rmtree(tmp_path)
    assert tidy(folders) == []


def test_a_new_job_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    old = aged(written(tmp_path, 1), 99 * DAY_S)
    bystander = tmp_path / "notes"
    bystander.mkdir()
    os.utime(bystander, (0, 0))
    jobs.start((mo.Finetune(),), ["mlp"], "digits", folder=tmp_path)
    assert not old.exists()
    assert bystander.exists()
