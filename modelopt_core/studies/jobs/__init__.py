"""Long work in processes of its own: start a recipe, watch it, pause it, find it again after a restart.

A job is a folder. Everything between the app and the job's process goes through files in it, so a closed browser, a
restarted app and a killed process lose nothing that was written:

    job.json           what to do; written once           commands.jsonl  pause, resume, step, cancel; appended here
    <key>.mopt         a model handed in, or after a      events.jsonl    what happened; appended by the process
                       step, under its key                alive           locked by the process while it lives
    <key>.safetensors  where a training stands            log.txt         what libraries print
    best.mopt          the best model of a training       <key>.aside     what is known of <key>.mopt beside its weights

The lock tells a dead process from a slow one at once, however it died: the kernel lets go of it. See process.py for
the process itself. Nothing is pickled, and nothing here waits.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic
from modelopt_core.machine.folders import user_folder
from modelopt_core.studies.jobs import grid
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.job import COMMANDS, DIED, ENDED, EVENTS, LOCK, START_S, STATES, Job, State, alive
from modelopt_core.studies.jobs.plan import JobError
from modelopt_core.studies.jobs.tidy import tidy

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.steps.base import Step, Transform

__all__ = [
    "COMMANDS", "DIED", "ENDED", "EVENTS", "LOCK", "START_S", "STATES", "Job", "JobError", "State", "alive", "find",
    "home", "list", "named", "pair", "recall", "running", "start", "sweep",
]  # fmt: skip

ID = re.compile(r"[0-9a-f]{32}")
MOST_OF_AN_OWNER, MOST = 8, 32  # jobs that run or wait; each is a process of 20 MB at least


class How(TypedDict, total=False):
    """How a job computes.

    split: what it is measured on; threads: of torch, None shares the cores out over the jobs that run, a number makes
    the result the same bit for bit whatever else runs. about: words of whoever starts it, for finding it again.
    """

    split: str
    runtime: str
    seed: int
    threads: int | None
    about: str


def start(
    recipe: Sequence[Step],
    models: Sequence[str | nn.Module],
    workload: str,
    *,
    owner: str = "",
    folder: Path | None = None,
    **how: Unpack[How],
) -> Job:
    """Begin `recipe.run` in a process of its own and return at once.

    models: zoo names of the workload, or models that a `.mopt` file can hold. owner: a secret of whoever may list the
    job. how: split, runtime, seed, threads and about, see `How`. folder: where job folders are, see `home`. Only so
    many jobs work at once (see places.py), the others wait.
    """
    return _begin(recipe, models, folder, owner, workload=workload, **how)


def sweep(
    step: Transform,
    field: str,
    values: Sequence[float],
    model: str | nn.Module,
    workload: str,
    *,
    seeds: Sequence[int] = (0,),
    known: Sequence[tuple[float, int]] = (),
    owner: str = "",
    folder: Path | None = None,
    **how: Unpack[How],
) -> Job:
    """Begin to measure the response of a step to one of its knobs, in one process: every value with every seed.

    values: in the order in which they are measured, as `step.knob(field).values(12)` gives them coarse to fine.
    known: places, (value, seed), that were measured before and are passed over.
    `Job.measured` tells the points that are there, `response` makes a curve of them. Resumed, the job goes on with the
    first point that it lacks.
    """
    type(step).knob(field)
    for value in values:  # what is not allowed is said now
        grid.setting(step, field, value)
    wanted = {"field": field, "values": tuple(values), "seeds": tuple(seeds), "known": tuple(known)}
    return _begin((step,), [model], folder, owner, workload=workload, grid=wanted, **how)


def pair(
    step: Transform,
    against: Transform,
    model: str | nn.Module,
    workload: str,
    *,
    seeds: Sequence[int] = (0,),
    owner: str = "",
    folder: Path | None = None,
    **how: Unpack[How],
) -> Job:
    """Begin to make two results from the same model in one process, in turns, an epoch each, seed by seed.

    against: what `step` is held against, as a student without a teacher. `Job.paired` tells what is there, and every
    result is kept under its key.
    """
    wanted = {"against": plans.recipe((against,)), "seeds": tuple(seeds)}
    return _begin((step,), [model], folder, owner, workload=workload, pair=wanted, **how)


def _begin(
    recipe: Sequence[Step], models: Sequence[str | nn.Module], folder: Path | None, owner: str, **values: Any
) -> Job:
    """Make the folder, call the process."""
    from modelopt_core.files import mopt

    names = named(models)
    files = {}
    for name, model in zip(names, models, strict=True):
        if not isinstance(model, str):
            files[name] = mopt.encode(model)
            if reason := mopt.lost(model, files[name], frozen=True):
                raise JobError(f"a job gets its model as a file, which cannot hold all of it ({reason}); use apply")
    plan = plans.make(
        owner=plans.hashed(owner), created_s=time.time(), recipe=plans.recipe(recipe), models=names, **values
    )
    _room(home(folder), owner)
    path = home(folder) / secrets.token_hex(16)
    try:
        path.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ModelOptError(
            f"cannot make the folder {str(path)!r} ({error.strerror}); set MODELOPT_JOBS to one with write access"
        ) from error
    try:
        for name, data in files.items():
            atomic.write(path / name, data)
        atomic.write(path / plans.FILE, plan.model_dump_json(indent=1).encode())
        job = Job(path)
        job.launch()
    except ModelOptError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return job


def named(models: Sequence[str | nn.Module]) -> tuple[str, ...]:
    """What a plan calls these models: zoo names as they are, others by the file that holds them."""
    from modelopt_core.models import identity

    return tuple(m if isinstance(m, str) else f"{identity.key(m)}.mopt" for m in models)


def _room(where: Path, owner: str) -> None:
    """Old jobs make room for a new one; one sentence where too many run or wait already."""
    folders = [path for path in where.glob("*") if ID.fullmatch(path.name)]
    tidy(folders)
    living = [Job(path) for path in folders if alive(path)]
    mine = sum(job.belongs_to(owner) for job in living)
    for count, most, whose in ((mine, MOST_OF_AN_OWNER, "of yours"), (len(living), MOST, "of everybody")):
        if count >= most:
            raise JobError(f"{count} jobs {whose} run or wait already; cancel one, or wait until one is done")


def home(folder: Path | None = None) -> Path:
    """Where job folders are: `folder`, else MODELOPT_JOBS, else `jobs` in the user's data folder."""
    return folder or Path(os.environ.get("MODELOPT_JOBS") or user_folder() / "jobs").expanduser()


def find(id: str, folder: Path | None = None) -> Job:
    """The job with this id, running or ended. Whoever knows an id may use the job."""
    path = home(folder) / id
    if not ID.fullmatch(id) or not path.is_dir():
        raise JobError(f"there is no job {id[:40]!r}; it may have been removed")
    return Job(path)


def list(owner: str = "", folder: Path | None = None, **same: object) -> tuple[Job, ...]:
    """The owner's jobs, the latest first. Folders that are no whole job are passed over.

    same: what the plan must say, as in `list(owner, recipe=(step,), models=("cnn",), workload="digits")`.
    """
    if "recipe" in same:
        same["recipe"] = plans.recipe(same["recipe"])  # type: ignore[arg-type]
    found = []
    for path in home(folder).glob(f"*/{plans.FILE}"):
        try:
            job = find(path.parent.name, path.parent.parent)
        except JobError:
            continue
        if job.belongs_to(owner) and all(getattr(job.plan, name) == value for name, value in same.items()):
            found.append(job)
    return tuple(sorted(found, key=lambda job: job.plan.created_s, reverse=True))


def recall(key: str, owner: str = "", folder: Path | None = None) -> bool:
    """Is the result with this key at hand? One that only a job of the owner's has is put where `apply` looks first.

    key: what `step.key([model], workload, seed)` says. A damaged file counts as none.
    """
    from modelopt_core.steps import base

    if base.kept(key):
        return True
    for path in home(folder).glob(f"*/{key}.mopt"):
        try:
            job = find(path.parent.name, path.parent.parent)
            if job.belongs_to(owner):
                base.keep(plans.result(path), key, job.notes(path.name))
                return True
        except (ModelOptError, OSError):
            continue
    return False


def running(folder: Path | None = None) -> int:
    """How many jobs have a living process, whoever owns them."""
    return sum(alive(path.parent) for path in home(folder).glob(f"*/{LOCK}"))
