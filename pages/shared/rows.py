"""Measured points as the Dial draws them: score, and size and latency in per cent of the model as it came."""

from __future__ import annotations

from collections.abc import Sequence

from modelopt_core.recipe import Point
from pages.shared.dial import point
from pages.shared.trial import Trial

Row = dict[str, float | bool | None]


def curve_rows(points: Sequence[Point], value: float, trial: Trial) -> list[Row]:
    """The curve's points, and the released setting itself, which may lie between them."""
    found = [point(p.value, p.measurement) for p in list(points)]
    if not any(row["x"] == value for row in found):
        found.append(point(value, trial.on_curve))
    return found


def percent_base(trial: Trial) -> dict[str, float]:
    """What is 100 %."""
    return {"size_bytes": trial.start.size_bytes, "latency_ms": trial.start.latency_ms.value}
