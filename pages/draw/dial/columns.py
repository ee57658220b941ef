"""Points of a response curve, from what was measured to the rounded columns that the browser draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from modelopt_core.errors import ModelOptError

if TYPE_CHECKING:  # it brings torch along, 1.3 s that the first page need not wait for
    from modelopt_core.measuring.measurement import Measurement

Row: TypeAlias = Mapping[str, float | bool | None]
Points: TypeAlias = Sequence[Row] | Mapping[str, Sequence[float | bool | None]]

REQUIRED = ("x", "score", "size_bytes", "latency_ms")
OPTIONAL = ("score_low", "score_high", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "measured", "noisy")
MOST_POINTS = 1_000  # as many as a plot has pixels, and the message stays below 100 KB
DECIMALS = 2  # of a per cent: a tenth of a pixel in a plot 1,000 pixels high
DIGITS = 6  # significant digits of everything else

Column: TypeAlias = list[float | bool | None]


def point(x: float, measurement: Measurement) -> dict[str, float | bool | None]:
    """The row that `dial` draws for one measured setting `x` of the knob."""
    score, speedup = measurement.score, measurement.speedup
    return {
        "x": x,
        "score": score.value,
        "score_low": score.low,
        "score_high": score.high,
        "size_bytes": measurement.size_bytes,
        "latency_ms": measurement.latency_ms.value,
        # Against the baseline timed in turn with it: milliseconds of another minute would draw the machine's mood.
        "latency_ratio": 1 / speedup.value,
        "latency_ratio_low": 1 / speedup.high,
        "latency_ratio_high": 1 / speedup.low,
        "measured": score.how == "measured",
        "noisy": measurement.noisy,
    }


def to_columns(points: Points, baseline: Row) -> dict[str, Column]:
    """Columns sorted by x: score in %, size and latency in % of the baseline, ms; what isn't finite is None.

    Two rows at one x: the later one counts. Where a timing was disturbed, the latency is None and stands in the columns
    noisy, noisy_low and noisy_high instead, so that no line goes through it.
    """
    given = _as_columns(points)
    places = {x: i for i, x in enumerate(_finite(given["x"])) if x is not None}
    rows = [places[x] for x in sorted(places)]
    per_ms = 100 / _positive(baseline, "latency_ms")
    wanted = [  # name in the browser, column here, factor to per cent
        ("score", "score", 100.0),
        ("score_low", "score_low", 100.0),
        ("score_high", "score_high", 100.0),
        ("size", "size_bytes", 100.0 / _positive(baseline, "size_bytes")),
        ("latency", "latency_ratio", 100.0) if "latency_ratio" in given else ("latency", "latency_ms", per_ms),
        ("latency_low", "latency_ratio_low", 100.0),
        ("latency_high", "latency_ratio_high", 100.0),
    ]
    columns: dict[str, Column] = {"x": _rounded(given["x"], rows)}
    for name, source, factor in wanted:
        if source in given:
            columns[name] = _percent(given[source], rows, factor)
    columns["ms"] = _rounded(given["latency_ms"], rows)
    measured = [given["measured"][i] is not False for i in rows] if "measured" in given else []
    if not all(measured):
        columns["measured"] = list(measured)
    disturbed = [given["noisy"][i] is True for i in rows] if "noisy" in given else []
    return _set_apart(columns, disturbed) if any(disturbed) else columns


def _set_apart(columns: dict[str, Column], disturbed: Sequence[bool]) -> dict[str, Column]:
    """The columns with the disturbed latencies in columns of their own."""
    apart = dict(columns)
    for edge in ("", "_low", "_high"):
        if cells := columns.get(f"latency{edge}"):
            told = list(zip(cells, disturbed, strict=True))
            apart[f"latency{edge}"] = [None if noisy else cell for cell, noisy in told]
            apart[f"noisy{edge}"] = [cell if noisy else None for cell, noisy in told]
    return apart


def _as_columns(points: Points) -> dict[str, list[float | bool | None]]:
    """Rows or columns in, complete columns of one length out."""
    if isinstance(points, Mapping):
        columns = {name: list(points[name]) for name in (*REQUIRED, *OPTIONAL) if name in points}
    else:
        names = [name for name in (*REQUIRED, *OPTIONAL) if any(name in row for row in points)] or REQUIRED
        columns = {name: [row.get(name) for row in points] for name in names}
    absent = [name for name in REQUIRED if name not in columns]
    if absent:
        raise ModelOptError(f"points lack {', '.join(absent)}; a point has {', '.join(REQUIRED)}")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise ModelOptError(f"columns of {', '.join(map(str, sorted(lengths)))} points; give all of them one length")
    if max(lengths) > MOST_POINTS:
        raise ModelOptError(f"{max(lengths)} points in one curve; at most {MOST_POINTS} are drawn: thin the grid")
    return columns


def _finite(cells: Iterable[object]) -> list[float | None]:
    """The cells as floats, None where one is no finite number."""
    found: list[float | None] = []
    for cell in cells:
        try:
            number = float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        found.append(number if math.isfinite(number) else None)
    return found


def _percent(cells: Sequence[object], rows: Sequence[int], factor: float) -> Column:
    """These rows of a column times `factor`, rounded."""
    return [None if x is None else round(x * factor, DECIMALS) for x in _finite(cells[i] for i in rows)]


def _rounded(cells: Sequence[object], rows: Sequence[int]) -> Column:
    """These rows of a column with few digits."""
    return [None if x is None else float(f"{x:.{DIGITS}g}") for x in _finite(cells[i] for i in rows)]


def _positive(baseline: Row, name: str) -> float:
    (number,) = _finite([baseline.get(name)])
    if number is None or number <= 0:
        raise ModelOptError(f"baseline {name} is {baseline.get(name)!r}; per cent of it need a number above 0")
    return number
