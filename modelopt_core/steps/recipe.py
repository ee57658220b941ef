"""A recipe: a tuple of steps in the user's order. `run` applies it to a pool and measures after every step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.machine.events import Progress, Report, silent
from modelopt_core.measuring.measurement import Measurement, measure
from modelopt_core.models import sound
from modelopt_core.steps.base import Combine, Step, Transform
from modelopt_core.steps.reading import VERSION, read
from modelopt_core.steps.registered import STEPS
from modelopt_core.workloads.workload import Workload

DIGITS = 6  # of a score in a file
CURVE_POINTS = 34  # a knob of 100 positions, measured at every third

Recipe = tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Stage:
    """One model of the pool after one step. branch: its place in the pool; label: the step, or 'baseline'."""

    label: str
    branch: int
    model: nn.Module
    measurement: Measurement


@dataclass(frozen=True, eq=False)
class Point:
    """One measured setting of a response curve."""

    value: float
    measurement: Measurement


def run(
    recipe: Sequence[Step],
    pool: Sequence[nn.Module],
    workload: Workload,
    *,
    split: str = "val",
    runtime: str = "onnx",
    device: str = "cpu",
    seed: int = 0,
    report: Report = silent,
) -> list[Stage]:
    """Apply the steps in order and measure every model after every step, each against the pool's first model.

    A Transform is applied to each model of the pool, a Combine makes the pool one. The stages begin with the baselines;
    each is also reported as it comes. The pool's models are left as they were.
    """
    sound.pool(pool, "run")
    if not pool:
        raise ModelOptError("a recipe needs at least one model to start from; the pool is empty")
    stages: list[Stage] = []
    models, baseline = list(pool), pool[0]
    for at, step in enumerate([None, *recipe]):
        if isinstance(step, Transform):
            models = [step.apply(model, workload, seed=seed, report=report) for model in models]
        elif isinstance(step, Combine):
            models = [step.apply(models, workload, seed=seed, report=report)]
        for branch, model in enumerate(models):
            found = measure(model, workload, split, runtime=runtime, device=device, baseline=baseline)
            stages.append(Stage(step.label if step else "baseline", branch, model, found))
            report(stages[-1])
        report(Progress("recipe", at, len(recipe)))
    return stages


def curve(
    step: Transform,
    field: str,
    model: nn.Module,
    workload: Workload,
    *,
    points: int = CURVE_POINTS,
    split: str = "val",
    runtime: str = "onnx",
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Point]:
    """The response curve of one knob: measured points, coarse to fine, the ends first.

    field: a numeric field of the step that has a Knob. Between points the thread lets others go first (see cores.py).
    """
    if not isinstance(step, Transform):
        raise ModelOptError(f"a curve is of a step that changes one model, {step.name} makes one of several; use run")
    values = type(step).knob(field).values(points)
    sound.check(model, "the model of curve")
    whole = type(step).model_fields[field].annotation is int
    for value in values:
        cores.pause()
        setting = step.changed(**{field: int(value) if whole else value})
        small = setting.apply(model, workload, seed=seed)
        found = measure(small, workload, split, runtime=runtime, device=device, baseline=model)
        yield Point(value, found)


def provenance(recipe: Sequence[Step], measured: Measurement, split: str = "val", **more: object) -> dict[str, object]:
    """The note that a file takes along: `save(model, path, provenance(recipe, measurement))`.

    The recipe as `to_json` says it, the score with its interval, and the split that it was measured on. more: whatever
    else should be known, such as seed=0.
    """
    score = {name: _rounded(value) for name, value in asdict(measured.score).items()}
    return {"recipe": _steps(recipe), "score": {"metric": measured.metric, **score, "split": split}, **more}


def to_json(recipe: Sequence[Step]) -> str:
    """The recipe as JSON text: {"version": 1, "steps": [{"step": "Prune", …}, …]}; one line per field."""
    return json.dumps({"version": VERSION, "steps": _steps(recipe)}, indent=2)


def from_json(text: str) -> Recipe:
    """The recipe that `to_json` wrote. What is not one is refused with the field, the step and its line."""
    return read(text, STEPS)


def _steps(recipe: Sequence[Step]) -> list[dict[str, object]]:
    return [{"step": step.name, **step.model_dump(mode="json")} for step in recipe]


def _rounded(value: object) -> object:
    return round(value, DIGITS) if isinstance(value, float) else value
