"""One setting, tried: the core call behind every technique page, and what its cards and tabs read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

import modelopt_core as mo
from modelopt_core import identity, recipe, turns
from modelopt_core.events import Note, Report, silent
from modelopt_core.measure import Comparison, Measurement, Predictions
from modelopt_core.recipe import Point
from modelopt_core.step import Step
from modelopt_core.sweep import SWEEPER, Sweep
from pages.shared import pin, pool, work
from pages.shared.bench import Bench
from pages.shared.handle import Handle
from pages.shared.pin import Pin


@dataclass(frozen=True, eq=False)
class Setting:
    """A step on the bench's model, or on members that it makes one; known before anything is measured."""

    bench: Bench
    step: Any
    members: tuple[Pin, ...] = field(default=(), kw_only=True)

    @property
    def subject(self) -> str:
        """What the step works on: cnn, or cnn + mlp."""
        return " + ".join(pool.names(self.members)) if self.members else self.bench.model_name


@dataclass(frozen=True, eq=False)
class Trial(Setting):
    """A setting, measured beside the pinned baseline.

    reference: the pinned model, measured; measurement: the result against it; start: the bench's model as it came;
    on_curve: the result against that, as the points of the curve are.
    """

    before: nn.Module
    after: nn.Module
    reference: Measurement
    measurement: Measurement
    start: Measurement
    on_curve: Measurement
    comparison: Comparison
    against: str  # what the pinned baseline is called
    notes: tuple[str, ...] = ()  # what was done otherwise than asked

    @cached_property
    def said(self) -> tuple[Predictions, Predictions]:
        """What both models answered on val."""
        here = self.bench
        before, after = (
            mo.predictions(model, here.workload, runtime=here.runtime, device=here.device)
            for model in (self.before, self.after)
        )
        return before, after


def origin(bench: Bench, members: Sequence[Pin] = ()) -> Pin:
    """What a result is held against where nothing is pinned: the model as it came, or the best of the members.

    Of members with one score, the one with the fewest multiply–accumulates; a stage's own model is no rival.
    """
    members = [member for member in members if member.model_name in bench.workload.models]
    if not members:
        return Pin(bench.model_name, ())
    found = [_measured(bench, member.model(bench)) for member in members]
    return members[min(range(len(found)), key=lambda i: (-found[i].score.value, found[i].macs))]


def start(bench: Bench, members: Sequence[Pin] = ()) -> Measurement:
    """The bench's model as it came, or the best of the members."""
    return _measured(bench, origin(bench, members).model(bench))


def measure(bench: Bench, step: Step, members: tuple[Pin, ...] = ()) -> Trial:
    """Apply the step and measure it against the pinned baseline. Somebody waits: the background stands still.

    A step that lasts is not for here, unless its result is kept: see work.py.
    """
    notes: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with turns.waiting():
        came = origin(bench, members)
        pinned = pin.current(bench)
        if not pin.chosen(bench, pinned):
            pinned = came
        first, before, after = came.model(bench), pinned.model(bench), _applied(bench, step, members, listen)
        start, on_curve = _measured(bench, first), _measured(bench, after, first)
        reference, found = _measured(bench, before), _measured(bench, after, before)
        compared = mo.compare(before, after, bench.workload, runtime=bench.runtime, device=bench.device)
    return Trial(
        bench=bench,
        step=step,
        members=members,
        before=before,
        after=after,
        reference=reference,
        measurement=found,
        start=start,
        on_curve=on_curve,
        comparison=compared,
        against=f"{pinned.label}, the best member" if pinned is came and came in members else pinned.label,
        notes=tuple(dict.fromkeys(notes)),
    )


def sweep(setting: Setting, handle: Handle) -> Sweep[Point]:
    """The response curve of one knob, all else as in the setting: asked for once, measured in the background."""
    bench, step, members = setting.bench, setting.step, setting.members
    if step.lasts(bench.workload):
        return work.curve(bench, step, handle.name)
    anchored = handle.at(handle.knob.low)
    keys = [identity.key(model) for model in pool.models(members, bench) or [bench.model]]
    key = identity.digest(*keys, anchored.name, anchored.model_dump_json(), handle.name,
                          bench.workload.data_hash, bench.runtime, bench.device)  # fmt: skip
    return SWEEPER.request(key, len(handle.knob.values(recipe.CURVE_POINTS)), lambda: _curve(setting, handle))


def _curve(setting: Setting, handle: Handle) -> Iterator[Point]:
    """Measured points, coarse to fine, against the model as it came or the best member."""
    bench, members = setting.bench, setting.members
    first = origin(bench, members).model(bench)
    for value in handle.knob.values(recipe.CURVE_POINTS):
        turns.pause()
        yield Point(value, _measured(bench, _applied(bench, handle.at(value), members), first))


def _applied(bench: Bench, step: Step, members: Sequence[Pin], report: Report = silent) -> nn.Module:
    if isinstance(step, mo.Combine):
        return step.apply(pool.models(members, bench), bench.workload, report=report)
    assert isinstance(step, mo.Transform)
    return step.apply(bench.model, bench.workload, report=report)


def _measured(bench: Bench, model: nn.Module, against: nn.Module | None = None) -> Measurement:
    return mo.measure(model, bench.workload, runtime=bench.runtime, device=bench.device, baseline=against)
