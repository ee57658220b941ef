"""A job in its folder, seen from outside: its state, what it said, what it made; commands to it; its process."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

import modelopt_core.studies.jobs.journal as journal
import modelopt_core.studies.jobs.plan as plans
from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.machine.events import Note, Progress
from modelopt_core.studies.jobs.plan import JobError

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.measuring.measurement import Measurement
    from modelopt_core.steps.recipe import Stage

State = Literal["queued", "running", "paused", "done", "cancelled", "failed"]
STATES: tuple[State, ...] = ("queued", "running", "paused", "done", "cancelled", "failed")
ENDED = ("done", "cancelled", "failed")
EVENTS, COMMANDS, LOCK = "events.jsonl", "commands.jsonl", "alive"
START_S = 10.0  # a process that has not spoken by then never will
DIED = (
    "the job's process is gone without a word (killed, or the machine ran out of memory or disk); "
    "resume goes on from its last checkpoint"
)


def alive(path: Path) -> bool:
    """Does the process of the job in this folder live? A dead one's lock is free; ended ones leave no lock file."""
    lock = path / LOCK
    try:
        if not lock.is_file():
            return False
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


class Job:
    """A job in its folder, seen from outside. Cheap to make, safe to keep; it only reads files and appends commands."""

    def __init__(self, path: Path) -> None:
        self.path, self.id = path, path.name
        self.plan = plans.read(path)
        self._tail = journal.Tail(path / EVENTS)
        self._events: tuple[journal.Record, ...] = ()
        self._reading = threading.Lock()

    def belongs_to(self, owner: str) -> bool:
        """Is it a job of whoever has this token?"""
        return secrets.compare_digest(self.plan.owner, plans.hashed(owner))

    def events(self, after: int = 0) -> tuple[journal.Record, ...]:
        """What happened, without the first `after` events: ask again with the number of those that you have.

        Each is a mapping with `time_s`, `kind` and, by kind, `state` (state, error, pid), `progress` (phase, step,
        total, values), `stage` (label, branch, measurement, model), `best` (model) or `alive` (nothing else).
        """
        with self._reading:
            self._events += tuple(e for e in self._tail.read() if isinstance(e.get("kind"), str))
            return self._events[after:]

    @property
    def written_bytes(self) -> int:
        """Length of its events in the file."""
        try:
            return (self.path / EVENTS).stat().st_size
        except OSError:
            return 0

    @property
    def state(self) -> State:
        """queued, running, paused, done, cancelled or failed; a process that died counts as failed, at once."""
        return self._status()[0]

    @property
    def error(self) -> str | None:
        """Why the job failed, in one sentence."""
        return self._status()[1]

    @property
    def ended(self) -> bool:
        """Is it done, cancelled or failed?"""
        return self.state in ENDED

    @property
    def progress(self) -> Progress | None:
        """The latest progress."""
        event = self._latest("progress")
        return None if event is None else plans.progress(event)

    @property
    def awaited(self) -> bool:
        """Has a process been called that has not spoken yet?"""
        event = self._latest("state")
        return event is None or (event.get("state") == "queued" and "pid" not in event)

    def pause(self) -> None:
        """Stand still at the next report: after a batch, an epoch or a step, within half a second in a training."""
        self._command("pause")

    def step(self) -> None:
        """Pause, or, when paused, go on to the next report and pause again."""
        self._command("step")

    def resume(self) -> None:
        """Go on. A job that failed, died or was cancelled goes on from its last checkpoint: a step or an epoch."""
        if self.state in ("failed", "cancelled"):
            self.launch()
        else:
            self._command("resume")

    def cancel(self) -> None:
        """Stop within two seconds; what was finished stays. A job that has ended takes no notice of commands."""
        self._command("cancel")

    def result(self) -> Sequence[Stage]:
        """What `recipe.run` returned, models included. Raises JobError while the job is not done."""
        from modelopt_core.measuring.measurement import Measurement
        from modelopt_core.steps.recipe import Stage

        if (state := self.state) != "done":
            raise JobError(f"job {self.id} is {state}; its result is there when it is done")
        events = self.events()
        begun = max((i for i, e in enumerate(events) if e.get("state") == "queued"), default=0)
        return [
            Stage(
                str(event.get("label")),
                plans.built(int, event.get("branch")),
                self._model(event),
                plans.built(Measurement, event.get("measurement")),
            )
            for event in events[begun:]
            if event["kind"] == "stage"
        ]

    def measured(self, field: str) -> list[tuple[float, int, Measurement]]:
        """(value of the knob, seed, measurement) of every place that a sweep has told of so far; of a job of one step,
        that one when it is done.
        """
        from modelopt_core.measuring.measurement import Measurement

        steps = self.plan.recipe["steps"]
        found = []
        for event in self.events():
            if event["kind"] == "point":
                value, seed = event.get("value"), plans.built(int, event.get("seed"))
            elif event["kind"] == "stage" and self.plan.grid is None and not _beside(event):
                value, seed = steps[-1].get(field), plans.built(int, event.get("seed", self.plan.seed))
            else:
                continue
            found.append((plans.built(float, value), seed, plans.built(Measurement, event.get("measurement"))))
        return found

    @property
    def paired(self) -> list[tuple[bool, int]]:
        """(is it the step beside, seed) of what a job of two steps has made so far."""
        events = (e for e in self.events() if e["kind"] == "stage" and "alone" in e)
        return [(bool(e["alone"]), plans.built(int, e.get("seed"))) for e in events]

    def notes(self, model: str) -> tuple[Note, ...]:
        """What was told of the making of a model. model: the name of its file."""
        told = next((e.get("notes") for e in reversed(self.events()) if e.get("model") == model), None)
        return tuple(Note(str(text)[:1000]) for text in told) if isinstance(told, list) else ()

    def best(self) -> nn.Module | None:
        """The last good model: of a training the best so far, else the last step's; None before there is one."""
        event = self._latest("stage", "point", "best")
        return None if event is None else self._model(event)

    @property
    def saved(self) -> bool:
        """Is there a good model to come back to, so that `best` gives one?"""
        return self._latest("stage", "point", "best") is not None

    def remove(self) -> None:
        """Delete the folder of a job that has ended."""
        if (state := self.state) not in ENDED:
            raise JobError(f"job {self.id} is {state}; cancel it before removing it")
        shutil.rmtree(self.path, ignore_errors=True)

    def _status(self) -> tuple[State, str | None]:
        lives = alive(self.path)  # before reading: what a dead process had to say is all there
        event = self._latest("state") or {"state": "queued", "time_s": self.plan.created_s}
        state: State = event["state"] if event.get("state") in STATES else "queued"
        if state in ENDED:
            return state, str(event["error"])[:1000] if event.get("error") else None
        starting = self.awaited and abs(time.time() - plans.number(event.get("time_s"))) < START_S
        return (state, None) if lives or starting else ("failed", DIED)

    def _latest(self, *kinds: str) -> journal.Record | None:
        return next((e for e in reversed(self.events()) if e["kind"] in kinds), None)

    def _model(self, event: journal.Record) -> nn.Module:
        from modelopt_core.files import mopt

        return mopt.load(plans.model_file(self.path, event.get("model")))

    def _command(self, name: str) -> None:
        if self.state not in ENDED:
            journal.append(self.path / COMMANDS, {"command": name})

    def launch(self) -> None:
        """Start the process. It is nobody's child in spirit: a session of its own, not ended with ours."""
        called_s = time.time()
        journal.append(self.path / EVENTS, {"time_s": called_s, "kind": "state", "state": "queued"})
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        cores.share_cores(environment)
        try:
            (self.path / COMMANDS).unlink(missing_ok=True)  # what was said to an earlier process
            with (self.path / "log.txt").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "modelopt_core.studies.jobs.process", str(self.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise ModelOptError(f"cannot start the job's process ({error.strerror}); close other programs") from error
        threading.Thread(target=self._reap, args=(process, called_s), name=f"job {self.id}", daemon=True).start()

    def _reap(self, process: subprocess.Popen[bytes], called_s: float) -> None:
        """Wait for the process, so that it leaves no zombie; one that ended before its first word is told of here."""
        process.wait()
        with suppress(ModelOptError):
            event = self._latest("state")  # another's, where the job was resumed meanwhile
            if self.awaited and event and event.get("time_s") == called_s and not alive(self.path):
                event = {"time_s": time.time(), "kind": "state", "state": "failed", "error": DIED}
                journal.append(self.path / EVENTS, event)


def _beside(stage: journal.Record) -> bool:
    """Is it a stage that the job's own step has no part in?"""
    return stage.get("label") == "baseline" or bool(stage.get("alone"))
