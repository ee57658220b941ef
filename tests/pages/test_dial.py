"""The Dial, Python's side: its columns and stops by hand. In the browser: test_dial_browser.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from modelopt_core.errors import ModelOptError
from modelopt_core.tasks.statistics import Estimate
from pages.draw.dial import _Knob, point, summary
from pages.draw.dial.columns import MOST_POINTS, to_columns
from tests.waiting import LIMIT_S

BASELINE = {"size_bytes": 200, "latency_ms": 0.5}
MOST_BYTES = 100_000  # L7: message per knob


def row(x: float, score: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"x": x, "score": score, "size_bytes": 50, "latency_ms": 0.25} | more


# --- columns ----------------------------------------------------------------------------------------------------


def test_columns_by_hand() -> None:
    columns = to_columns([row(0.5, 1 / 3), row(0.0, 1.0)], BASELINE)
    assert columns == {
        "x": [0.0, 0.5],
        "score": [100.0, 33.33],
        "size": [25.0, 25.0],
        "latency": [50.0, 50.0],
        "ms": [0.25, 0.25],
    }


def test_columns_from_rows_and_from_columns_are_the_same() -> None:
    rows = [row(0.1, score_low=0.4, score_high=0.6), row(0.2, score_low=0.3, score_high=0.7)]
    assert to_columns({name: [r[name] for r in rows] for name in rows[0]}, BASELINE) == to_columns(rows, BASELINE)


def test_ratio_of_the_interleaved_baseline_counts_before_milliseconds() -> None:
    columns = to_columns([row(0.1, latency_ratio=0.4, latency_ratio_low=0.3, latency_ratio_high=0.5)], BASELINE)
    assert (columns["latency_low"], columns["latency"], columns["latency_high"]) == ([30.0], [40.0], [50.0])
    assert columns["ms"] == [0.25]


def test_later_row_counts_and_what_is_not_finite_becomes_none() -> None:
    columns = to_columns([row(0.1, 0.2), row(0.1, float("nan")), row(float("inf"))], BASELINE)
    assert columns["x"] == [0.1]
    assert columns["score"] == [None]
    json.dumps(columns, allow_nan=False)


def test_measured_is_sent_only_where_a_point_is_not() -> None:
    assert "measured" not in to_columns([row(0.1, measured=True)], BASELINE)
    assert to_columns([row(0.1, measured=True), row(0.2, measured=False)], BASELINE)["measured"] == [True, False]


@pytest.mark.parametrize("points", [[], {"x": [], "score": [], "size_bytes": [], "latency_ms": []}])
def test_no_points_yet(points: Any) -> None:
    assert all(column == [] for column in to_columns(points, BASELINE).values())


@pytest.mark.parametrize(
    ("points", "baseline", "text"),
    [
        ([{"x": 1, "score": 1}], BASELINE, "points lack size_bytes, latency_ms; a point has x, score, size_bytes"),
        (
            {"x": [1, 2], "score": [1], "size_bytes": [1], "latency_ms": [1]},
            BASELINE,
            "columns of 1, 2 points; give all of them one length",
        ),
        ([row(x) for x in range(MOST_POINTS + 1)], BASELINE, f"{MOST_POINTS + 1} points in one curve; at most"),
        (
            [row(1)],
            {"size_bytes": 0, "latency_ms": 1},
            "baseline size_bytes is 0; per cent of it need a number above 0",
        ),
        ([row(1)], {"size_bytes": 1}, "baseline latency_ms is None"),
    ],
)
def test_points_that_cannot_be_drawn(points: Any, baseline: Any, text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        to_columns(points, baseline)


def test_point_of_a_measurement() -> None:
    measurement: Any = SimpleNamespace(
        score=Estimate(0.9, 0.8, 0.95, 100, "simulated"),
        size_bytes=50,
        latency_ms=Estimate(0.2, 0.1, 0.3, 20, "measured"),
        speedup=Estimate(2.0, 1.6, 2.5, 20, "measured"),
        noisy=False,
    )
    columns = to_columns([point(0.5, measurement)], BASELINE)
    assert (columns["latency_low"], columns["latency"], columns["latency_high"]) == ([40.0], [50.0], [62.5])
    assert (columns["score_low"], columns["score_high"], columns["measured"]) == ([80.0], [95.0], [False])


def test_largest_message_stays_small(root: Path) -> None:
    full = row(0.123456, 0.987654, score_low=0.98, score_high=0.99, latency_ratio=0.54321, latency_ms=0.0123456)
    points = [
        full | {"x": x / MOST_POINTS, "latency_ratio_low": 0.5, "latency_ratio_high": 0.6} for x in range(MOST_POINTS)
    ]
    code = sum((root / "pages/draw/dial" / name).stat().st_size for name in ("curve.js", "dial.js", "dial.css"))
    assert len(json.dumps(to_columns(points, BASELINE))) + code < MOST_BYTES


# --- stops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "value", "stop"),
    [
        (_Knob(0, 0.99, 0.01, "linear"), 0.6249, 0.62),
        (_Knob(0, 0.99, 0.01, "linear"), 7, 0.99),
        (_Knob(0, 0.99, 0.01, "linear"), -1, 0),
        (_Knob(0, 0.99, 0.01, "linear"), float("nan"), 0),
        (_Knob(1, 8, 1, "linear"), 4.4, 4),
        (_Knob(1, 8, 1, "linear", (16, 32)), 4.4, 4),
        (_Knob(1, 8, 1, "linear", (16, 32)), 12.5, 16),
        (_Knob(1, 8, 1, "linear", (16, 32)), 99, 32),
        (_Knob(1, 8, 1, "linear", (16, 32)), 8.5, 8),
        (_Knob(0.05, 1, 0.1, "linear"), 0.22, 0.25),
        (_Knob(1e-4, 1e-1, 0.5, "log"), 0.004, 0.00316),
        (_Knob(1e-4, 1e-1, 0.5, "log"), 0.1, 0.1),
    ],
)
def test_snap(knob: _Knob, value: float, stop: float) -> None:
    assert knob.snap(value) == stop
    assert knob.snap(stop) == stop


def test_stops_beyond_follow_evenly() -> None:
    """1 … 8, 16, 32: on the rail they stand at 1 … 10."""
    knob = _Knob(1, 8, 1, "linear", (16, 32))
    places = [knob.place(stop) for stop in (1, 8, 16, 32)]
    assert (places, knob.end) == ([1, 8, 9, 10], 10)
    assert knob.ticks() == [(float(p), str(s)) for p, s in zip(range(1, 11), (*range(1, 9), 16, 32), strict=True)]


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ((0, 1, 0.1, "cube"), "unknown scale 'cube'; choose from linear, log"),
        ((1, 8, 1, "linear", (16, 9)), r"stops beyond 8 are \[16, 9\]; they must rise from there, on a linear scale"),
        ((1, 8, 1, "linear", (8, 16)), r"stops beyond 8 are \[8, 16\]; they must rise"),
        ((1, 8, 0.1, "log", (16,)), r"stops beyond 8 are \[16\]; they must rise from there, on a linear scale"),
        ((1, 1, 0.1, "linear"), "the knob goes from 1 to 1; low must be below high"),
        ((float("nan"), 1, 0.1, "linear"), "low must be below high"),
        ((0, 1, 0.1, "log"), "a log scale can't begin at 0; low must be above 0"),
        ((0, 1, 0, "linear"), "step is 0; it must be above 0"),
    ],
)
def test_impossible_knobs(limits: Any, text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        _Knob(*limits)


def test_a_release_is_read_once_and_only_a_number_is_believed() -> None:
    knob = _Knob(0, 1, 0.1, "linear")
    assert knob.read({"release": {"value": 0.31, "n": 1}}, seen=0) == (0.3, 1)
    assert knob.read({"release": {"value": 0.31, "n": 1}}, seen=1) == (None, 1)
    assert knob.read({"release": {"value": 1e99, "n": 2}}, seen=1) == (1.0, 2)
    for hostile in (None, {}, {"release": None}, {"release": [1]}, {"release": {"value": "<b>", "n": 3}}, "text", 3):
        assert knob.read(hostile, seen=1) == (None, 1)


def test_short_knobs_show_every_stop() -> None:
    assert _Knob(1, 4, 1, "linear").ticks() == [(1, "1"), (2, "2"), (3, "3"), (4, "4")]
    assert _Knob(0, 0.99, 0.01, "linear").ticks() is None


def test_summary_says_both_ends() -> None:
    assert summary("Ratio", "p", to_columns([], BASELINE)) == "Response curve of Ratio: nothing measured yet."
    text = summary("Ratio", "p", to_columns([row(0), row(0.9, float("nan"))], BASELINE))
    assert text == (
        "Response curve of Ratio, 2 points: at p = 0 score 50 %, size 25 %, latency 50 % of the baseline; "
        "at p = 0.9 score unknown, size 25 %, latency 50 % of the baseline."
    )


def test_page_with_a_dial_runs_without_a_browser_and_twice(root: Path) -> None:
    app = AppTest.from_file(str(root / "tests/apps/dial_app.py"), default_timeout=LIMIT_S).run()
    assert [text.value for text in app.text] == ["held 0.62 after 1 runs with 101 points"]
    for runs in (2, 3):
        app.button[0].click().run()
        assert not app.exception
        assert [text.value for text in app.text] == [f"held 0 after {runs} runs with 101 points"]
