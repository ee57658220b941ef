"""Jobs as processes: the numbers of `run`, commands, deaths, restarts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import modelopt_core as mo
from modelopt_core.steps.recipe import Stage
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job, JobError
from tests.waiting import LIMIT_S, SOON_S, wait_until

SHORT = (mo.Prune(ratio=0.3), mo.Finetune(epochs=4))
LONG = (mo.Prune(ratio=0.3), mo.Finetune(epochs=1000))

START_AND_LEAVE = """
import sys
from pathlib import Path
import modelopt_core as mo
from modelopt_core.studies import jobs
print(jobs.start(mo.from_json(sys.argv[2]), ["mlp"], "digits", owner="ann", threads=1, folder=Path(sys.argv[1])).id)
"""
COME_BACK = """
import sys
from pathlib import Path
from modelopt_core.studies import jobs
[job] = jobs.list("ann", Path(sys.argv[1]))
print(job.id, job.state, job.progress.phase, "torch" in sys.modules)
"""


def ended(job: Job) -> bool:
    return job.state in jobs.ENDED


def pid(job: Job) -> int:
    return next(int(e["pid"]) for e in reversed(job.events()) if "pid" in e)


def trains(job: Job) -> bool:
    return job.progress is not None and job.progress.phase == "train"


def epoch(job: Job) -> float:
    assert job.progress is not None
    return job.progress.values["epoch"]


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([t.flatten().float() for t in model.state_dict().values()])


def on_one_thread(recipe: tuple[mo.Step, ...]) -> list[Stage]:
    """What the recipe gives in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return mo.run(recipe, [mo.baseline("digits", "mlp")], mo.workload("digits"))
    finally:
        torch.set_num_threads(threads)


def python(code: str, *arguments: str, **environment: str) -> str:
    """What another interpreter prints: an app that is closed again."""
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env=os.environ | paths | environment, capture_output=True, text=True, check=True, timeout=LIMIT_S
    ).stdout


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts jobs on digits that are over when the test is."""
    started: list[Job] = []

    def start(recipe: tuple[mo.Step, ...], model: str = "mlp", **how: object) -> Job:
        started.append(jobs.start(recipe, [model], "digits", **{"threads": 1, "folder": tmp_path, **how}))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for job in started:
        if jobs.alive(job.path):
            job.cancel()
            wait_until(lambda job=job: not jobs.alive(job.path), "the process of a cancelled job to end")


def test_a_job_outlives_its_app_and_gives_what_run_gives(tmp_path: Path) -> None:
    """Started by one interpreter, seen by a second, read by a third; bit-identical, and never near Streamlit."""
    recipe = mo.to_json(SHORT)
    id = python(START_AND_LEAVE, str(tmp_path), recipe, PYTHONPROFILEIMPORTTIME="1").strip()
    job = jobs.find(id, tmp_path)
    wait_until(lambda: ended(job), "the job to end")
    assert (job.state, job.error) == ("done", None)
    assert python(COME_BACK, str(tmp_path)).split() == [id, "done", "recipe", "False"]

    expected = on_one_thread(SHORT)
    result = job.result()
    assert [stage.label for stage in result] == ["baseline", "Prune(ratio=0.3)", "Finetune(epochs=4)"]
    for got, wanted in zip(result, expected, strict=True):
        a, b = got.measurement, wanted.measurement
        assert (a.score, a.size_bytes, a.entropy_bytes, a.macs) == (b.score, b.size_bytes, b.entropy_bytes, b.macs)
        assert torch.equal(weights(got.model), weights(wanted.model))
    assert torch.equal(weights(job.best() or torch.nn.Module()), weights(expected[-1].model))

    seconds = [e["time_s"] for e in job.events()]
    assert max(b - a for a, b in pairwise(seconds)) < SOON_S  # one each second, where the machine isn't busy
    imported = set(re.findall(r"\| +([\w.]+)$", (job.path / "log.txt").read_text(), re.MULTILINE))
    assert {"torch", "modelopt_core.steps.base"} <= imported
    assert not {n for n in imported if n.split(".")[0] in {"streamlit", "app", "pages", "pickle5", "tornado"}}
    wait_until(lambda: not (job.path / "alive").exists(), "the job's process to take its lock away")
    assert not list(job.path.glob(".*"))


def test_pause_step_resume_cancel_and_a_neighbour_that_is_killed(begin: Callable[..., Job]) -> None:
    job, victim = begin(LONG), begin(LONG)
    assert job.state == victim.state == "queued"
    wait_until(lambda: trains(job) and trains(victim), "both jobs to train")
    job.pause()
    wait_until(lambda: job.state == "paused", "the pause", SOON_S)
    stood = epoch(job)

    os.kill(pid(victim), signal.SIGKILL)
    wait_until(lambda: victim.state == "failed", "the death of the process to be noticed", SOON_S)
    assert victim.error == jobs.DIED
    assert "\n" not in jobs.DIED
    best = victim.best()
    assert best is not None
    assert bool(torch.isfinite(weights(best)).all())

    assert (job.state, epoch(job)) == ("paused", stood)
    job.step()
    wait_until(lambda: epoch(job) > stood, "one step", SOON_S)
    time.sleep(0.2)
    assert (job.state, epoch(job)) == ("paused", stood + 1)
    job.resume()
    wait_until(lambda: job.state == "running" and epoch(job) > stood + 5, "five more steps", SOON_S)
    job.cancel()
    wait_until(lambda: job.state == "cancelled", "the job to be cancelled", SOON_S)
    assert job.best() is not None
    wait_until(lambda: not jobs.alive(job.path), "its process to end", SOON_S)
    with pytest.raises(JobError, match=r"job \w+ is cancelled; its result is there when it is done"):
        job.result()
    job.pause()  # an ended job takes no notice
    assert job.state == "cancelled"
    job.remove()
    assert not job.path.exists()


def test_a_job_that_died_goes_on_from_its_last_checkpoint(begin: Callable[..., Job]) -> None:
    recipe = (mo.Finetune(epochs=3, lr=0.01), mo.Finetune(epochs=400))
    job = begin(recipe)
    wait_until(
        lambda: trains(job) and job.progress.total == 400 * 17 and [*job.path.glob("*.safetensors")],
        "the first checkpoint of the second training",
    )
    os.kill(pid(job), signal.SIGKILL)
    wait_until(lambda: job.state == "failed", "the death of the process to be noticed", SOON_S)
    seen, spoken = len(job.events()), jobs.Job(job.path)
    with (job.path / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"progress","phase":"tra')  # it died in the middle of a word
    job.resume()
    assert job.state == "queued"
    wait_until(lambda: ended(job), "the job to end")
    assert (spoken.state, spoken.error) == ("done", None)
    phases = [(e["values"]["epoch"], e["total"]) for e in job.events(seen) if e.get("phase") == "train"]
    assert {total for _, total in phases} == {400 * 17}  # the first training was not done again
    assert phases[0][0] > 1  # nor the first epochs of the second
    assert not [*job.path.glob("*.safetensors")]
    expected = on_one_thread(recipe)
    for got, wanted in zip(job.result(), expected, strict=True):
        assert torch.equal(weights(got.model), weights(wanted.model))


def test_a_loss_that_explodes_fails_and_keeps_the_last_good_model(begin: Callable[..., Job]) -> None:
    job = begin((mo.Finetune(lr=1e9),), "cnn", threads=None)
    wait_until(lambda: ended(job), "the job to end")
    assert job.state == "failed"
    assert re.fullmatch(r"loss is (nan|inf|\S+e\+\d+) in epoch \d+; choose lr below 1e\+09", job.error or "")
    best = job.best()
    assert best is not None
    assert bool(torch.isfinite(weights(best)).all())
    assert mo.measure(best, mo.workload("digits")).score.value > 0.9
