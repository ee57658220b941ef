"""A job's own process: `python -m modelopt_core.jobs.process FOLDER`. It never imports the app.

The main thread runs the recipe. All that it reports goes through one callable, which writes it down, and there stands
still or stops when told to. A second thread reads the commands, shows that the job lives, and ends a process that does
not come to its next report.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from modelopt_core import jobs
from modelopt_core.errors import ModelOptError
from modelopt_core.events import Progress
from modelopt_core.jobs import journal
from modelopt_core.jobs import plan as plans

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.recipe import Stage
    from modelopt_core.workload import Workload

POLL_S = 0.05  # between looks at the commands
ALIVE_S = 0.8  # a job that said nothing for so long says that it lives
PATIENCE_S = 1.2  # a cancelled job that has not come to a report by then is ended where it stands
SHARE_EVERY_S = 1.0  # between counts of the jobs that run
TELL_EVERY_S = 0.002  # progress that comes faster is not written, but for the last of a phase; a line costs 0.1 ms
BEST_EVERY_S, BEST_SHARE = 1.0, 0.05  # checkpoints: not more often, nor for more than this share of the time
NICE = 5  # the app answers first
KEY_LENGTH = 64  # hex digits of a sha256
KILL_FIRST = b"500"  # on a scale to 1000: when memory runs out, the kernel ends a job before the app


class Cancelled(BaseException):
    """Not an error, so that no step takes it for one."""


class Worker:
    """The link between the running recipe and the job's folder; itself the `report` callable."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, plans.read(folder)
        self.commands = journal.Tail(folder / jobs.COMMANDS)
        self.ended = threading.Event()
        self.turn = threading.Condition()  # guards the four fields below
        self.paused, self.allowed = False, 0  # reports that may pass while paused
        self.cancelled_s: float | None = None
        self.standing = False
        self.writing = threading.RLock()
        self.said_s = self.told_s = time.monotonic()
        self.best: Callable[[], nn.Module] | None = None
        self.best_due_s = 0.0
        self.threads = self.threads_set = 0

    def __call__(self, event: object) -> None:
        """Write the event down, then do as told: go on, stand still, or stop."""
        from modelopt_core.recipe import Stage

        if isinstance(event, Progress):
            self.tell(event)
        elif isinstance(event, Stage):
            self.keep_stage(event)
        self.share_threads()
        self.obey()

    def say(self, kind: str, **values: object) -> None:
        """One line in the events; after the last word, none."""
        with self.writing:
            if not self.ended.is_set():
                journal.append(self.folder / jobs.EVENTS, {"time_s": time.time(), "kind": kind, **values})
                self.said_s = time.monotonic()

    def finish(self, state: Literal["done", "cancelled", "failed"], error: str | None = None) -> None:
        """The last word; of two threads' the first counts."""
        with self.writing:
            with suppress(ModelOptError):  # no room left for it: the reader sees that the process is gone
                self.say("state", state=state, **({"error": error} if error else {}))
            self.ended.set()

    def tell(self, event: Progress) -> None:
        """Progress, and from time to time the best model of a training as a checkpoint."""
        now = time.monotonic()
        if now - self.told_s >= TELL_EVERY_S or event.step >= event.total:
            self.told_s = now
            self.say("progress", phase=event.phase, step=event.step, total=event.total, values=dict(event.values))
        self.best = event.best or self.best
        if now >= self.best_due_s:
            self.keep_best()

    def keep_best(self) -> None:
        """Write the best model so far, if there is one that is not written yet."""
        if self.best is None:
            return
        begun = time.monotonic()
        model, self.best = self.best(), None
        self.keep(model, "best.mopt")
        self.say("best", model="best.mopt")
        now = time.monotonic()
        self.best_due_s = now + max(BEST_EVERY_S, (now - begun) / BEST_SHARE)

    def keep_stage(self, stage: Stage) -> None:
        """Write the model under its key, so that a job that starts again need not make it again."""
        from modelopt_core import identity

        self.best = None
        name = f"{identity.key(stage.model)}.mopt"
        if not (self.folder / name).exists():
            self.keep(stage.model, name)
        self.say("stage", label=stage.label, branch=stage.branch, measurement=asdict(stage.measurement), model=name)

    def keep(self, model: nn.Module, name: str) -> None:
        """One model file, whole or not at all."""
        from modelopt_core import codec

        with self.writing:  # the watcher does not end the process in the middle
            codec.save(model, self.folder / name)

    def obey(self) -> None:
        """Return when the work may go on; raise Cancelled when it may not."""
        with self.turn:
            if self.paused and not self.allowed and self.cancelled_s is None:
                self.standing = True
        if self.standing:
            self.keep_best()
            self.say("state", state="paused")
        with self.turn:
            self.turn.wait_for(lambda: not self.paused or self.allowed or self.cancelled_s is not None)
            self.allowed = max(0, self.allowed - 1)
            went_on, self.standing = self.standing and not self.paused, False
            cancelled = self.cancelled_s is not None
        if cancelled:
            self.keep_best()
            raise Cancelled
        if went_on:
            self.say("state", state="running")

    def share_threads(self) -> None:
        """Set torch's threads to this job's share; they belong to the thread that computes."""
        if self.threads != self.threads_set:
            import torch

            torch.set_num_threads(self.threads)
            self.threads_set = self.threads

    def watch(self) -> None:
        """The second thread, until the job ends."""
        counted_s = -SHARE_EVERY_S
        while not self.ended.wait(POLL_S):
            now = time.monotonic()
            with suppress(ModelOptError):  # a full disk is for the main thread to report
                for record in self.commands.read():
                    self.command(record.get("command"))
                if now - self.said_s >= ALIVE_S and not self.standing:
                    self.say("alive")
            if now - counted_s >= SHARE_EVERY_S:
                counted_s, self.threads = now, self.plan.threads or share(self.folder.parent)
            if self.cancelled_s is not None and now - self.cancelled_s >= PATIENCE_S:
                self.finish("cancelled")
                with self.writing:
                    leave(self.folder)

    def command(self, name: object) -> None:
        """Take one command; unknown ones are passed over."""
        with self.turn:
            if name == "pause":
                self.paused, self.allowed = True, 0
            elif name == "resume":
                self.paused, self.allowed = False, 0
            elif name == "step":
                self.allowed += self.paused
                self.paused = True
            elif name == "cancel" and self.cancelled_s is None:
                self.cancelled_s = time.monotonic()
            self.turn.notify_all()


def main(folder: Path) -> None:
    """Run the job in `folder` to its end. Does nothing where another process runs it already."""
    lock = FileLock(folder / jobs.LOCK)
    try:
        lock.acquire(timeout=jobs.START_S, poll_interval=0.005)  # a reader holds it for an instant to know if we live
    except Timeout:
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
    import modelopt_core as mo
    from modelopt_core import turns

    plan = worker.plan
    turns.heed_other_processes()
    worker.threads = plan.threads or share(worker.folder.parent)
    recipe = mo.from_json(json.dumps(plan.recipe))
    data = mo.workload(plan.workload)
    pool = [_model(worker.folder, data, name) for name in plan.models]
    recall(worker.folder)
    worker.say("state", state="running")
    worker(None)  # told to pause or to stop meanwhile?
    mo.run(recipe, pool, data, split=plan.split, runtime=plan.runtime, seed=plan.seed, report=worker)


def recall(folder: Path) -> None:
    """Put the models that an earlier process of this job finished where `Transform.apply` looks before it computes."""
    from modelopt_core import codec, identity
    from modelopt_core.cache import STORE

    for path in folder.glob("?" * KEY_LENGTH + ".mopt"):
        try:
            model = identity.stamp(codec.load(path), path.stem)
        except ModelOptError:  # damaged since: it will be made again
            path.unlink(missing_ok=True)
        else:
            STORE.get(("model", path.stem), partial(_same, model), _size_bytes)


def explain(error: Exception, worker: Worker) -> str:
    """One sentence for the user; what is no user's mistake leaves its traceback in log.txt."""
    from modelopt_core.train import TrainingError

    if isinstance(error, TrainingError):
        worker.best = lambda: error.best
        with suppress(ModelOptError):
            worker.keep_best()
    if isinstance(error, ModelOptError):
        return str(error)
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "out of memory; choose a smaller model or batch, or end other programs, then resume"
    traceback.print_exc()
    first = str(error).split("\n")[0][:200]
    return f"{type(error).__name__}: {first}; the whole report is in {worker.folder / 'log.txt'}"


def share(home: Path) -> int:
    """Torch threads for one of the jobs that run: the cores, shared out among them and the app.

    A thread too many costs more than it brings: on 2 busy cores a small network trained 10 times slower with 2 threads
    than with 1, as each batch waited for the thread that did not run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (jobs.running(home) + 1))


def step_aside() -> None:
    """Computing, the app goes first; dying for lack of memory, this process does."""
    with suppress(OSError, AttributeError):
        os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(KILL_FIRST)


def leave(folder: Path) -> None:
    """End the process now, whatever its threads do; without the lock file, nobody need try the lock again."""
    with suppress(OSError):
        (folder / jobs.LOCK).unlink()
    os._exit(0)


def _model(folder: Path, data: Workload, name: str) -> nn.Module:
    from modelopt_core import codec, zoo

    return codec.load(plans.model_file(folder, name)) if name.endswith(".mopt") else zoo.baseline(data.name, name)


def _same(model: nn.Module) -> nn.Module:
    return model


def _size_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
