"""Response curves that come with the project, because measuring them takes longer than a visitor waits.

assets/measured holds their numbers as JSON, a curve a file, and the models of the first seed, each under its key: such
a setting is at hand like one that was run here. `python -m benchmarks.distill_grid` makes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from modelopt_core.errors import DataMissing, ModelOptError
from modelopt_core.files import mopt
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.digest import CODE_VERSION
from modelopt_core.machine.folders import asset_path
from modelopt_core.measuring.measurement import Measurement
from modelopt_core.models import identity
from modelopt_core.steps import base as steps
from modelopt_core.steps.base import Transform
from modelopt_core.steps.recipe import Point, from_json
from modelopt_core.studies.jobs.grid import over_seeds
from modelopt_core.studies.jobs.plan import built
from modelopt_core.workloads.workload import Workload

FOLDER = "measured"


@dataclass(frozen=True, eq=False)
class Shipped:
    """points: of the curve, each over all seeds; beside: what it is compared with; machine: where and when."""

    points: tuple[Point, ...]
    beside: Measurement | None
    seeds: int
    machine: str


def curve(step: Transform, field: str, model: nn.Module, workload: Workload) -> Shipped | None:
    """What came with the project of this step's response to one of its knobs, on val in ONNX Runtime; None if nothing.

    Counts only for the same code, data and model, and with all other settings as they were.
    """
    for row in STORE.get(("measured",), _read, lambda rows: 1000 * sum(len(row["points"]) for row in rows)):
        if (row["field"], row["code"], row["data"]) != (field, CODE_VERSION, workload.data_hash):
            continue
        if row["model"] == identity.key(model) and row["step"] == _anchored(step, field):
            points = {value: [m for v, _, m in row["points"] if v == value] for value, *_ in row["points"]}
            beside = [m for _, m in row["beside"]]
            return Shipped(
                tuple(Point(value, _one(found)) for value, found in points.items()),
                _one(beside) if beside else None,
                len(next(iter(points.values()))),
                row["machine"],
            )
    return None


def recall(key: str) -> bool:
    """Did the result with this key come with the project? Then it is put where `apply` looks first."""
    if steps.kept(key):
        return True
    try:
        path = asset_path(FOLDER, f"{key}.mopt")
        if not path.is_file():
            return False
        steps.keep(mopt.load(path), key)
    except ModelOptError:  # a damaged file counts as none
        return False
    return True


def _one(found: list[Measurement]) -> Measurement:
    """All seeds as one measurement; its times are those of the seed whose timing was disturbed least."""
    calm = min(found, key=lambda m: m.speedup.high / m.speedup.low)
    times = {name: getattr(calm, name) for name in ("latency_ms", "baseline_ms", "speedup", "noisy")}
    return replace(over_seeds(found), **times)


def _anchored(step: Transform, field: str) -> Transform:
    return step.changed(**{field: type(step).model_fields[field].default})


def _read() -> list[dict[str, Any]]:
    """All curves; a file that can't be read, or of settings that there are no longer, counts as none."""
    found = []
    try:
        paths = sorted(asset_path(FOLDER).glob("*.json"))
    except DataMissing:
        return []
    for path in paths:
        try:
            row = json.loads(path.read_text("utf-8"))
            row["step"] = from_json(json.dumps({"steps": [row["step"]]}))[0]
            for name in ("points", "beside"):
                row[name] = [(*place, built(Measurement, found)) for *place, found in row[name]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(row)
    return found
