"""Two results in one job, an epoch of one, then an epoch of the other: both curves grow together.

Each is made by a thread of its own, of which one computes at a time; it hands over when an epoch is over. Results are
those of `step.apply`, bit for bit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Progress, Relay, Report

if TYPE_CHECKING:
    from torch import nn

    from modelopt_core.measuring.measurement import Measurement
    from modelopt_core.steps.base import Transform
    from modelopt_core.workloads.workload import Workload

T = TypeVar("T")
PLAIN = ("epoch", "round", "seed", "examples_per_s")  # values that are told as numbers, not as curves
ALONE = " alone"  # ends the names of the second result's curves


class Pair(BaseModel):
    """What the recipe's one step is held against, and the seeds that both are made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: dict[str, Any]  # a recipe of one step
    seeds: tuple[int, ...] = Field((0,), min_length=1, max_length=100)


@dataclass(frozen=True, eq=False)
class Paired:
    """One of the two, measured; alone: the second; model: the result, with its key."""

    label: str
    seed: int
    alone: bool
    measurement: Measurement
    model: nn.Module


def make(
    steps: Sequence[Transform],
    seeds: Sequence[int],
    model: nn.Module,
    workload: Workload,
    report: Report,
    *,
    skip: Collection[tuple[bool, int]] = (),
    split: str = "val",
    runtime: str = "onnx",
) -> None:
    """Apply both steps from every seed, measure and report what is not in `skip`: (is it the second, seed)."""
    from modelopt_core.measuring.measurement import measure

    for seed in dict.fromkeys(seeds):
        left = [alone for alone in (False, True) if (alone, seed) not in skip]
        works = [partial(steps[alone].apply, model, workload, seed=seed) for alone in left]
        for alone, made in zip(left, in_turns(works, report, [ALONE * alone for alone in left], seed), strict=True):
            found = measure(made, workload, split, runtime=runtime, baseline=model)
            report(Paired(steps[alone].label, seed, alone, found, made))


def in_turns(works: Sequence[Callable[..., T]], report: Report, names: Sequence[str], seed: int) -> list[T]:
    """What the works return, each called with a `report` of its own. names: end those of their curves.

    The first that raises ends the others at their next report; its exception is raised here.
    """
    turns = _Turns(report, len(works), seed)
    with ThreadPoolExecutor(max(1, len(works)), "in turns") as threads:
        running = [threads.submit(turns.run, at, work, names[at]) for at, work in enumerate(works)]
    errors = [error for future in running if (error := future.exception())]
    if errors:
        raise next((error for error in errors if not isinstance(error, _Abandoned)), errors[0])
    return [future.result() for future in running]


class _Abandoned(BaseException):
    """The other work failed; this one stops."""


class _Turns:
    """Whose turn it is, and how far each has come."""

    def __init__(self, report: Report, count: int, seed: int) -> None:
        self.report, self.seed = report, seed
        self.changed = threading.Condition()  # guards the next two
        self.order, self.broken = deque(range(count)), False
        self.now: dict[int, Progress] = {}
        self.counted = count  # works that have something to tell

    def run(self, at: int, work: Callable[..., T], name: str) -> T:
        """The thread of one work."""
        self.wait(at)
        try:
            self.report(None)  # settings that belong to a thread
            return work(report=_Side(self.report, self, at, name))
        except BaseException as error:
            self.broken = True
            if name and isinstance(error, ModelOptError):  # the best model of a job is the first work's
                raise ModelOptError(f"{name.strip()}: {error}") from error
            raise
        finally:
            with self.changed:
                self.counted -= at not in self.now
                self.order.remove(at)
                self.changed.notify_all()

    def wait(self, at: int) -> None:
        """Until it is the turn of work number `at`."""
        with self.changed:
            self.changed.wait_for(lambda: self.broken or self.order[0] == at)
        if self.broken:
            raise _Abandoned

    def hand_over(self, at: int) -> None:
        """Let the others go on, then wait for the next turn."""
        with self.changed:
            self.order.rotate(-1)
            self.changed.notify_all()
        self.wait(at)


@dataclass(frozen=True, eq=False)
class _Side(Relay):
    """The report of one work: its progress becomes that of all, its curves get its name."""

    turns: _Turns
    at: int
    name: str

    def __call__(self, event: object) -> None:
        """As any report; at the end of an epoch the others go on."""
        if not isinstance(event, Progress):
            super().__call__(event)
            return
        turns = self.turns
        turns.now[self.at] = event
        values = {name if name in PLAIN else f"{name}{self.name}": value for name, value in event.values.items()}
        steps = sum(each.step for each in turns.now.values()) // turns.counted
        best = None if self.name else event.best
        super().__call__(replace(event, step=steps, values={**values, "seed": turns.seed}, best=best))
        if event.checkpoint:
            turns.hand_over(self.at)
