"""A job's own process: `python -m modelopt_core.studies.jobs.process FOLDER`. It never imports the app."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from modelopt_core.errors import ModelOptError
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import grid as grids
from modelopt_core.studies.jobs import pairs
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.worker import Cancelled, Worker, leave, share

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.steps.base import Step, Transform
    from modelopt_core.workloads.workload import Workload

NICE = 5  # the app answers first
KEY_LENGTH = 64  # hex digits of a sha256
KILL_FIRST = b"500"  # on a scale to 1000: when memory runs out, the kernel ends a job before the app


def main(folder: Path) -> None:
    """Run the job in `folder` to its end. Does nothing where another process runs it, or did since we were called."""
    lock = FileLock(folder / jobs.LOCK)
    try:
        lock.acquire(timeout=jobs.START_S, poll_interval=0.005)  # a reader holds it for an instant to know if we live
    except Timeout:
        return
    if not jobs.Job(folder).awaited:
        lock.release()
        return
    worker = Worker(folder)
    worker.say("state", state="queued", pid=os.getpid())
    step_aside()
    threading.Thread(target=worker.watch, name="watch", daemon=True).start()
    try:
        work(worker)
        worker.finish("done")
    except Cancelled:
        worker.finish("cancelled")
    except Exception as error:  # whatever it is, the job ends with a sentence
        worker.finish("failed", explain(error, worker))
    leave(folder)


def work(worker: Worker) -> None:
    """The plan: load, apply what is left to do, measure."""
    worker.enter()  # before PyTorch takes its 200 MB
    import modelopt_core as mo
    from modelopt_core.machine import cores

    plan = worker.plan
    cores.heed_other_processes()
    worker.threads = plan.threads or share(worker.folder.parent)
    recipe = mo.from_json(json.dumps(plan.recipe))
    data = mo.workload(plan.workload)
    pool = [_model(worker.folder, data, name) for name in plan.models]
    finished_steps(worker.folder)
    worker.say("state", state="running")
    worker(None)  # told to pause or to stop meanwhile?
    where: dict[str, Any] = {"split": plan.split, "runtime": plan.runtime}
    job = jobs.Job(worker.folder)
    if plan.grid is not None:
        done = [(value, seed) for value, seed, _ in job.measured(plan.grid.field)]
        grids.sweep(_one(recipe), plan.grid, pool[0], data, worker, skip=done, **where)
    elif plan.pair is not None:
        both = [_one(recipe), _one(mo.from_json(json.dumps(plan.pair.against)))]
        pairs.make(both, plan.pair.seeds, pool[0], data, worker, skip=job.paired, **where)
    else:
        mo.run(recipe, pool, data, seed=plan.seed, report=worker, **where)


def finished_steps(folder: Path) -> None:
    """Put the models that an earlier process of this job finished where `Transform.apply` looks before it computes."""
    from modelopt_core.steps import base

    for path in folder.glob("?" * KEY_LENGTH + ".mopt"):
        try:
            base.keep(plans.result(path), path.stem)
        except ModelOptError:  # damaged since: it will be made again
            path.unlink(missing_ok=True)


def explain(error: Exception, worker: Worker) -> str:
    """One sentence for the user; what is no user's mistake leaves its traceback in log.txt."""
    from modelopt_core.training.loop import TrainingError

    if isinstance(error, TrainingError):
        worker.best = lambda: error.best
    with suppress(ModelOptError, MemoryError):
        worker.keep_best()
    if isinstance(error, ModelOptError):
        return str(error)
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "out of memory; choose a smaller model or batch, or end other programs, then resume"
    traceback.print_exc()
    first = str(error).split("\n")[0][:200]
    return f"{type(error).__name__}: {first}; the whole report is in {worker.folder / 'log.txt'}"


def step_aside() -> None:
    """Computing, the app goes first; dying for lack of memory, this process does."""
    with suppress(OSError, AttributeError):
        os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(KILL_FIRST)


def _one(recipe: Sequence[Step]) -> Transform:
    """The one step of a job that repeats it."""
    from modelopt_core.steps.base import Transform

    if len(recipe) != 1 or not isinstance(recipe[0], Transform):
        raise jobs.JobError("a job that repeats a step needs a recipe of one step that transforms one model")
    return recipe[0]


def _model(folder: Path, data: Workload, name: str) -> nn.Module:
    from modelopt_core.files import mopt
    from modelopt_core.models import identity
    from modelopt_core.training import zoo

    if not name.endswith(".mopt"):
        return zoo.baseline(data.name, name)
    path = plans.model_file(folder, name)
    return identity.stamp(mopt.load(path), path.stem)  # the key by which whoever handed it in knows it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
