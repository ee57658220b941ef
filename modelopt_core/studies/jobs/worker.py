"""The link between a running recipe and its job's folder: writes down what is reported, does what is commanded.

The main thread runs the recipe and reports to the Worker, which there stands still or stops when told to. A second
thread reads the commands, shows that the job lives, and ends a process that does not come to its next report.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic
from modelopt_core.machine.events import Progress
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import journal
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.grid import Swept
from modelopt_core.studies.jobs.pairs import Paired
from modelopt_core.studies.jobs.places import Place, in_all

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.steps.recipe import Stage

POLL_S = 0.05  # between looks at the commands
ALIVE_S = 0.8  # a job that said nothing for so long says that it lives
PATIENCE_S = 1.2  # a cancelled job that has not come to a report by then is ended where it stands
PLACE_EVERY_S = 0.2  # between looks for a place
SHARE_EVERY_S = 1.0  # between counts of the jobs that run
TELL_EVERY_S, TELL_FREELY, TELL_SELDOM_S = 0.002, 5000, 0.5  # progress that comes faster is not written, but for the
# last of a phase: small networks have 100 epochs a second and curves want each, yet after so many lines fewer will do
CHECKPOINT_EVERY_S, CHECKPOINT_SHARE = 1.0, 0.05  # not more often, nor for more than this share of the time


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
        self.told = 0
        self.best: Callable[[], nn.Module] | None = None
        self.trainings: dict[str, Path] = {}  # checkpoints since the last step
        self.due_s: dict[str, float] = {}  # when the next is, by training
        self.threads = 0  # not known yet
        self.place = Place(folder.parent, self.plan.owner)

    def __call__(self, event: object) -> None:
        """Write the event down, then do as told: go on, stand still, or stop."""
        from modelopt_core.steps.recipe import Stage

        if isinstance(event, Progress):
            self.tell(event)
        elif isinstance(event, Stage):
            self.keep_stage(event)
        elif isinstance(event, Swept):
            self.keep_point(event)
        elif isinstance(event, Paired):
            self.keep_paired(event)
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
        """Progress; from time to time also where a training stands and its best model."""
        now = time.monotonic()
        gap_s = TELL_EVERY_S if self.told < TELL_FREELY else TELL_SELDOM_S
        if now - self.told_s >= gap_s or event.step >= event.total:
            self.told_s, self.told = now, self.told + 1
            self.say("progress", phase=event.phase, step=event.step, total=event.total, values=dict(event.values))
        self.best = event.best or self.best
        if (self.best or event.checkpoint) and now >= self.due_s.get(event.training, 0.0):
            if event.checkpoint and event.training in self.trainings:
                with self.writing:
                    atomic.write(self.trainings[event.training], event.checkpoint())
            self.keep_best()
            took_s = time.monotonic() - now
            self.due_s[event.training] = now + took_s + max(CHECKPOINT_EVERY_S, took_s / CHECKPOINT_SHARE)

    def recall(self, training: str) -> bytes | None:
        """The checkpoint that an earlier process of this job kept of this training."""
        path = self.trainings[training] = self.folder / f"{training}.safetensors"
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise ModelOptError(f"cannot read {str(path)!r} ({error.strerror}); delete it") from error

    def keep_best(self) -> None:
        """Write the best model so far, if there is one that is not written yet."""
        if self.best is not None:
            model, self.best = self.best(), None
            self.keep(model, "best.mopt")
            self.say("best", model="best.mopt")

    def keep_stage(self, stage: Stage) -> None:
        """Tell of a step that is over, its model written before."""
        found, more = asdict(stage.measurement), self.keep_result(stage.model)
        self.say("stage", label=stage.label, branch=stage.branch, measurement=found, **more)

    def keep_point(self, point: Swept) -> None:
        """Tell of a place of the grid; the models of the first seed are written, and any later one's is not needed."""
        assert self.plan.grid is not None
        first = point.seed == self.plan.grid.seeds[0]
        more = self.keep_result(point.model) if first else {}
        self.say("point", value=point.value, seed=point.seed, measurement=asdict(point.measurement), **more)
        self.forget_trainings()

    def keep_paired(self, one: Paired) -> None:
        """Tell of one of the two of a seed; all models are written, since their answers are compared."""
        found, more = asdict(one.measurement), self.keep_result(one.model)
        self.say("stage", label=one.label, seed=one.seed, alone=one.alone, measurement=found, **more)

    def keep_result(self, model: nn.Module) -> dict[str, object]:
        """Write a model under its key, so that nobody need make it again; the file's name, and notes on its making."""
        from modelopt_core.models import identity, notes

        name = f"{identity.key(model)}.mopt"
        if not (self.folder / name).exists():
            if beside := notes.pack(model):  # first: whoever sees the model sees it whole
                atomic.write((self.folder / name).with_suffix(notes.SUFFIX), beside)
            self.keep(model, name)
        self.forget_trainings()
        return {"model": name, "notes": [note.text for note in model.__dict__.get("notes", ())]}

    def forget_trainings(self) -> None:
        """The step is over: where its trainings stood is of no use, nor is their best model."""
        self.best = None
        while self.trainings:
            self.trainings.popitem()[1].unlink(missing_ok=True)

    def keep(self, model: nn.Module, name: str) -> None:
        """One model file, whole or not at all."""
        from modelopt_core.files import mopt

        with self.writing:  # the watcher does not end the process in the middle
            mopt.save(model, self.folder / name)

    def enter(self) -> None:
        """Return with a place among the jobs that work; raise Cancelled when told to stop meanwhile."""
        self.obey()
        self.wait_for_place()

    def wait_for_place(self) -> None:
        """As `enter`, also while paused."""
        while not self.place.take():
            with self.turn:
                if self.turn.wait_for(lambda: self.cancelled_s is not None, timeout=PLACE_EVERY_S):
                    raise Cancelled

    def obey(self) -> None:
        """Return when the work may go on; raise Cancelled when it may not."""
        with self.turn:
            if self.paused and not self.allowed and self.cancelled_s is None:
                self.standing = True
        if self.standing:
            self.keep_best()
            self.say("state", state="paused")
            self.place.give_back()
        with self.turn:
            self.turn.wait_for(lambda: not self.paused or self.allowed or self.cancelled_s is not None)
            self.allowed = max(0, self.allowed - 1)
            stood, self.standing = self.standing, False
            cancelled, paused = self.cancelled_s is not None, self.paused
        if cancelled:
            self.keep_best()
            raise Cancelled
        if stood:
            if not self.place.take():
                self.say("state", state="queued", pid=os.getpid())
                self.wait_for_place()
            if not paused:
                self.say("state", state="running")

    def share_threads(self) -> None:
        """Set torch's threads to this job's share; they belong to the thread that computes, which calls this."""
        if self.threads:
            import torch

            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)

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


def share(home: Path) -> int:
    """Torch threads for one of the jobs that run: the cores, shared out among them and the app.

    A thread too many costs more than it brings: on 2 busy cores a small network trained 10 times slower with 2 threads
    than with 1, as each batch waited for the thread that did not run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (min(jobs.running(home), in_all()) + 1))


def leave(folder: Path) -> None:
    """End the process now, whatever its threads do; without the lock file, nobody need try the lock again."""
    with suppress(OSError):
        (folder / jobs.LOCK).unlink()
    os._exit(0)
