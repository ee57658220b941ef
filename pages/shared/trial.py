"""One setting, tried: the core call behind every technique page, and what its cards and tabs read from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import nn

import modelopt_core as mo
from modelopt_core import identity, recipe, turns
from modelopt_core.events import Note
from modelopt_core.measure import Comparison, Measurement, Predictions
from modelopt_core.step import Transform
from modelopt_core.sweep import SWEEPER, Sweep
from pages.shared import pin, work
from pages.shared.bench import Bench


@dataclass(frozen=True, eq=False)
class Setting:
    """A step on the bench's model; known before anything is measured."""

    bench: Bench
    step: Transform


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


def start(bench: Bench) -> Measurement:
    """The bench's model as it came."""
    return mo.measure(bench.model, bench.workload, runtime=bench.runtime, device=bench.device)


def measure(bench: Bench, step: Transform) -> Trial:
    """Apply the step and measure it against the pinned baseline. Somebody waits: the background stands still.

    A step that lasts is not for here, unless its result is kept: see work.py.
    """
    model, workload, runtime, device = bench.model, bench.workload, bench.runtime, bench.device
    notes: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with turns.waiting():
        start, result = mo.run((step,), [model], workload, runtime=runtime, device=device, report=listen)
        pinned = pin.current(bench)
        before = pinned.model(bench)
        reference = mo.measure(before, workload, runtime=runtime, device=device)
        found = mo.measure(result.model, workload, runtime=runtime, device=device, baseline=before)
        compared = mo.compare(before, result.model, workload, runtime=runtime, device=device)
    return Trial(
        bench=bench,
        step=step,
        before=before,
        after=result.model,
        reference=reference,
        measurement=found,
        start=start.measurement,
        on_curve=result.measurement,
        comparison=compared,
        against=pinned.label,
        notes=tuple(dict.fromkeys(notes)),
    )


def sweep(bench: Bench, step: Transform, field: str) -> Sweep:
    """The response curve of one knob, all else as in `step`: asked for once, measured in the background."""
    if step.lasts:
        return work.curve(bench, step, field)
    anchored = step.changed(**{field: type(step).model_fields[field].default})
    key = identity.digest(identity.key(bench.model), anchored.name, anchored.model_dump_json(), field,
                          bench.workload.data_hash, bench.runtime, bench.device)  # fmt: skip
    total = len(step.knob(field).values(recipe.CURVE_POINTS))

    def measured() -> object:
        return mo.curve(anchored, field, bench.model, bench.workload, runtime=bench.runtime, device=bench.device)

    return SWEEPER.request(key, total, measured)  # type: ignore[arg-type]
