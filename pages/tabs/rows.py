"""Measured points as the Dial draws them: score, and size and latency in per cent of the model as it came."""

from __future__ import annotations

from collections.abc import Sequence

from modelopt_core.measuring.measurement import Measurement
from modelopt_core.steps.recipe import Point
from pages.draw.dial import point
from pages.work.trial import Trial

Row = dict[str, float | bool | None]


def curve_rows(points: Sequence[Point], value: float, trial: Trial | None) -> list[Row]:
    """The curve's points, and the released setting itself, if it is measured; it may lie between them."""
    found = [point(p.value, p.measurement) for p in list(points)]
    if trial is not None and not any(row["x"] == value for row in found):
        found.append(point(value, trial.on_curve))
    return found


def percent_base(start: Measurement) -> dict[str, float]:
    """What is 100 %: the model as it came."""
    return {"size_bytes": start.size_bytes, "latency_ms": start.latency_ms.value}
