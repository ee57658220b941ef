"""What the pages are made of, without a page: numbers as text, CSV, links, the guess, the bars, the exported file."""

from __future__ import annotations

import csv
import io
import json
import types
from types import SimpleNamespace
from typing import Any

import pytest

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.recipe import Point
from modelopt_core.structure.layer_table import Layer
from modelopt_core.tasks.statistics import Estimate
from modelopt_core.workloads.workload import WORKLOADS
from pages.draw import units
from pages.frame import guess
from pages.state import bench, controls, history, pin
from pages.state.setting import Setting
from pages.state.stack import Stack
from pages.tabs import layer_table, report, sheet, source
from pages.work import trial


@pytest.fixture(scope="module")
def here() -> bench.Bench:
    work = mo.workload("digits")
    return bench.Bench(work, "cnn", mo.baseline("digits", "cnn"), "onnx", "cpu", "tune")


def test_numbers_by_hand() -> None:
    space = units.SPACE
    assert units.percent(0.9721) == f"97.2{space}%"
    assert units.points(-0.0081) == f"−{space}0.8{space}pt"
    assert units.points(0.0) == f"±{space}0.0{space}pt"
    assert [units.size(n) for n in (0, 999, 1000, 23_412, 86_800, 9_960_000)] == [
        f"0{space}B", f"999{space}B", f"1.00{space}kB", f"23.4{space}kB", f"86.8{space}kB", f"9.96{space}MB"
    ]  # fmt: skip
    assert [units.milliseconds(v) for v in (0.0412, 4.213, 42.13)] == [
        f"0.041{space}ms", f"4.21{space}ms", f"42.1{space}ms"
    ]  # fmt: skip
    assert units.change(3.62, "smaller", "larger", "same size") == f"3.6{space}× smaller"
    assert units.change(0.5, "smaller", "larger", "same size") == f"2.0{space}× larger"
    assert units.change(1.0, "smaller", "larger", "same size") == "same size"
    assert units.speed(Estimate(1.3, 0.9, 1.6, 25)) == "same speed"
    assert units.speed(Estimate(1.8, 1.7, 1.9, 25)) == f"1.8{space}× faster"
    assert (units.knob(0.5, 0.01), units.knob(4, 1)) == ("0.50", "4")
    assert (units.short(21_386), units.whole(21_386)) == (f"21{space}k", "21,386")


def test_csv_cells_are_no_formulas() -> None:
    rows: list[dict[str, sheet.Cell]] = [
        {"setting": text, "score": -1.5} for text in ("=1+1", "+1", "-1", "@x", "\t=1", "ok")
    ]
    read = list(csv.reader(io.StringIO(sheet.to_csv(rows))))
    assert [row[0] for row in read[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\t=1", "ok"]
    assert {row[1] for row in read[1:]} == {"-1.5"}
    assert sheet.to_csv([]) == "\n"


def test_a_value_in_a_link_goes_to_the_grid() -> None:
    assert controls.value_from(mo.Prune, "ratio", "0.6234") == 0.62
    assert controls.value_from(mo.Quantize, "bits", "4") == 4
    with pytest.raises(ModelOptError, match=r"ratio=0.999 is outside the dial, which goes from 0 to 0.99"):
        controls.value_from(mo.Prune, "ratio", "0.999")
    with pytest.raises(ModelOptError, match="unknown criterion 'l3'"):
        controls.value_from(mo.Prune, "criterion", "l3")


def test_the_breaking_point_by_hand() -> None:
    start: Any = SimpleNamespace(score=Estimate(0.9, 0.88, 0.92, 100))

    def at(value: float, low: float, high: float) -> Point:
        score = Estimate((low + high) / 2, low, high, 100)
        return Point(value, SimpleNamespace(score=score))  # type: ignore[arg-type]

    curve = [at(0.0, 0.88, 0.92), at(1.0, 0.1, 0.2), at(0.5, 0.85, 0.91), at(0.75, 0.5, 0.6)]
    assert guess.breaking_point(curve, start) is curve[3]
    mirrored = [Point(-p.value, p.measurement) for p in curve]
    found = guess.breaking_point(mirrored, start)
    assert found is not None
    assert found.value == -0.75
    assert guess.breaking_point(curve[:1], start) is None


def test_the_best_setting_by_hand() -> None:
    """The third is highest; the second reaches into its interval, the first and the last do not."""
    knob, start = mo.Distill.knob("temperature"), SimpleNamespace()
    scores = {1.0: (0.5, 0.6), 4.0: (0.6, 0.85), 8.0: (0.8, 0.9), 20.0: (0.7, 0.75)}
    points = [
        Point(value, SimpleNamespace(score=Estimate((low + high) / 2, low, high, 5)))  # type: ignore[arg-type]
        for value, (low, high) in scores.items()
    ]
    sweep: Any = SimpleNamespace(done=True, points=points, total=4)
    said = guess.best(6.0, sweep, start, knob)  # type: ignore[arg-type]
    assert "Your guess: T = 6.0. Measured: the score is highest at T = 8.0 (85.0" in said
    assert "from 4.0 to 8.0 are those not clearly below it. Your guess is among them." in said
    assert guess.best(15.0, sweep, start, knob).endswith("Your guess is outside.")  # type: ignore[arg-type]
    sweep.points = points[2:3]
    assert guess.best(6.0, sweep, start, knob).endswith("; no setting is clearly below that.")  # type: ignore[arg-type]
    sweep.done = False
    assert guess.best(6.0, sweep, start, knob).endswith("Measuring the curve: 1 of 4 points.")  # type: ignore[arg-type]


def test_bars_by_hand() -> None:
    before = Layer("conv1", "Conv2d", (16, 1, 3, 3), 16, 160, 160, 1000, None)
    after = Layer("conv1", "Conv2d", (4, 1, 3, 3), 4, 40, 20, 250, 15)
    assert (layer_table.CHANNELS.share(before, after), layer_table.CHANNELS.text(before, after)) == (0.25, "4 of 16")
    assert layer_table.WEIGHTS.share(before, after) == 0.125
    assert (layer_table.BITS.share(before, after), layer_table.BITS.text(before, after)) == (4 / 32, "32 → 4")


def test_the_source_tab_writes_a_program_that_runs(here: bench.Bench) -> None:
    tried = trial.measure(Setting(here, mo.Prune(ratio=0.3)))
    printed: list[Any] = []
    names: dict[str, Any] = {"print": printed.append}
    code = compile(source.python(tried), "page", "exec")
    _run(code, names)
    assert printed[0].size_bytes == tried.measurement.size_bytes
    assert "--workload digits --model cnn" in source.command(tried)


def test_the_program_measures_against_what_is_pinned(here: bench.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin, "current", lambda _: Stack("mlp", (mo.Quantize(bits=4),)))
    tried = trial.measure(Setting(here, mo.Prune(ratio=0.3)))
    printed: list[Any] = []
    _run(compile(source.python(tried), "page", "exec"), {"print": printed.append})
    assert printed[0].score == tried.measurement.score
    assert "pinned = mo.Quantize(bits=4).apply(mo.baseline('digits', 'mlp'), w)" in source.python(tried)
    assert "baseline=pinned" in source.python(tried)


def _run(code: Any, names: dict[str, Any]) -> None:
    """Run the compiled text of the Source tab: our own, not a user's."""
    types.FunctionType(code, names)()


def test_the_export_is_one_escaped_file(here: bench.Bench) -> None:
    tried = trial.measure(Setting(here, mo.Prune(ratio=0.3)))
    text = report.html(tried, "<b>no & never</b>")
    assert "&lt;b&gt;no &amp; never" in text
    assert "<script" not in text
    assert "http" not in text  # it loads nothing
    for part in (here.workload.data_hash, "&quot;ratio&quot;: 0.3", "modelopt run recipe.json", "Python"):
        assert part in text
    assert json.loads(mo.to_json((tried.step,)))["steps"][0]["step"] == "Prune"


def test_a_run_is_called_by_what_matters(here: bench.Bench) -> None:
    found = trial.measure(Setting(here, mo.Prune(ratio=0.3))).measurement
    said = [history.Run("", "digits", (Stack("cnn", ()),), step, found).setting for step in (
        mo.Prune(ratio=0.3), mo.Prune(ratio=0.5, granularity="n:m"), mo.Prune(frozen=("conv1",)))]  # fmt: skip
    assert said[0] == "Prune 0.3 · l1 · channel · layer · rounds 1 · norms"
    assert said[1] == "Prune 0.5 · l1 · n:m · size 4 · rounds 1 · norms"
    assert said[2].endswith("('conv1',)")


def test_every_workload_has_a_title() -> None:
    assert [bench.title(name) for name in WORKLOADS][:1] == ["Digits"]
    assert bench.title("mnist") == "MNIST"
