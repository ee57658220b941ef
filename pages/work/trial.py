"""One setting, tried: the core call behind every technique page, and what its cards and tabs read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

import modelopt_core as mo
from modelopt_core.machine import cores
from modelopt_core.machine.digest import digest
from modelopt_core.machine.events import Note, Report, silent
from modelopt_core.measuring.measurement import Comparison, Measurement, Predictions, retimed
from modelopt_core.models import identity
from modelopt_core.steps import recipe
from modelopt_core.steps.base import Step
from modelopt_core.steps.recipe import Point
from modelopt_core.studies.background import SWEEPER, Instead, Later, Sweep
from pages.state import pin
from pages.state.bench import Bench
from pages.state.knob import Handle
from pages.state.setting import Setting
from pages.state.stack import Stack
from pages.work import launch

AGAIN_S = (2.0, 10.0, 30.0)  # waits before noisy points are timed again


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


def origin(bench: Bench, members: Sequence[Stack] = ()) -> Stack:
    """What a result is held against where nothing is pinned: the model as it came, or the best of the members.

    Of members with one score, the one with the fewest multiply–accumulates; a stage's own model is no rival.
    """
    members = [member for member in members if member.members or member.model_name in bench.workload.models]
    if not members:
        return pin.came(bench)
    found = [_measured(bench, _model(member, bench)) for member in members]
    return members[min(range(len(found)), key=lambda i: (-found[i].score.value, found[i].macs))]


def start(bench: Bench, members: Sequence[Stack] = ()) -> Measurement:
    """The bench's model as it came, or the best of the members."""
    return _measured(bench, _model(origin(bench, members), bench))


def measure(asked: Setting) -> Trial:
    """Apply the step and measure it against the pinned baseline, for a person who waits.

    A step that lasts is not for here, unless its result is kept: see launch.py.
    """
    bench, step, members = asked.bench, asked.step, asked.members
    notes: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with cores.asking():
        came = origin(bench, members)
        pinned = pin.current(bench)
        if not pin.chosen(bench, pinned):
            pinned = came
        first, before, after = _model(came, bench), _model(pinned, bench), _applied(asked, step, listen)
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
    """The response curve of one knob, all else as in the setting: asked for once, measured in the background.

    Where every point takes a job, what jobs have measured.
    """
    bench, anchored = setting.bench, handle.at(handle.knob.low)
    if anchored.lasts(bench.workload):
        if anchored.lasting == anchored and isinstance(anchored, mo.Transform):
            return launch.curve(setting, handle.name)
        if not launch.kept(setting.other(anchored)):
            return Sweep(0, lambda: iter(()))
    keys = [identity.key(model) for model in setting.models]
    key = digest(*keys, anchored.name, anchored.model_dump_json(), handle.name,
                          bench.workload.data_hash, bench.runtime, bench.device)  # fmt: skip
    return SWEEPER.request(key, len(handle.knob.values(recipe.CURVE_POINTS)), lambda: _curve(setting, handle))


def _curve(setting: Setting, handle: Handle) -> Iterator[Point | Instead[Point] | Later]:
    """Measured points, coarse to fine, against the model as it came or the best member.

    Those that were timed while somebody else held the machine are timed again when it may be calm.
    """
    bench, points = setting.bench, []
    first = _model(origin(bench, setting.members), bench)
    for value in handle.knob.values(recipe.CURVE_POINTS):
        cores.pause()
        points.append(Point(value, _measured(bench, _applied(setting, handle.at(value)), first)))
        yield points[-1]
    for wait_s in AGAIN_S:
        if not any(point.measurement.noisy for point in points):
            return
        yield Later(wait_s)
        for at, point in enumerate(points):
            if point.measurement.noisy:
                cores.pause()
                model = _applied(setting, handle.at(point.value))
                found = retimed(point.measurement, model, bench.workload, runtime=bench.runtime, device=bench.device,
                                baseline=first)  # fmt: skip
                points[at] = Point(point.value, found)
                yield Instead(at, points[at])


def _applied(setting: Setting, step: Step, report: Report = silent) -> nn.Module:
    if isinstance(step, mo.Combine):
        return step.apply(setting.models, setting.bench.workload, report=report)
    assert isinstance(step, mo.Transform)
    return step.apply(setting.bench.model, setting.bench.workload, report=report)


def _model(one: Stack, bench: Bench) -> nn.Module:
    return bench.model if one == pin.came(bench) else one.model(bench.workload)


def _measured(bench: Bench, model: nn.Module, against: nn.Module | None = None) -> Measurement:
    return mo.measure(model, bench.workload, runtime=bench.runtime, device=bench.device, baseline=against)
