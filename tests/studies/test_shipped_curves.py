"""What ships as measured is of this code: numbers and models belong together, and to no other setting."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.studies import shipped_curves
from modelopt_core.workloads.workload import Workload


@pytest.fixture(scope="module")
def digits() -> Workload:
    return mo.workload("digits")


@pytest.fixture(scope="module")
def shipped(digits: Workload) -> shipped_curves.Shipped:
    found = shipped_curves.curve(mo.Distill(), "temperature", mo.baseline("digits", "cnn"), digits)
    assert found is not None, "made by other code: run python -m benchmarks.distill_grid again"
    return found


def test_the_curve_of_distill_is_whole(shipped: shipped_curves.Shipped) -> None:
    assert shipped.seeds == 5
    assert shipped.beside is not None
    assert shipped.machine
    low, high = mo.Distill.knob("temperature").low, mo.Distill.knob("temperature").high
    values = [point.value for point in shipped.points]
    assert len(values) == len(set(values)) >= 12
    assert (min(values), max(values)) == (low, high)
    for found in [*(point.measurement for point in shipped.points), shipped.beside]:
        assert found.score.n == shipped.seeds
        assert found.size_bytes == shipped.beside.size_bytes or abs(found.size_bytes - shipped.beside.size_bytes) < 100
        assert found.macs == shipped.beside.macs


def test_the_models_beside_it_score_within_the_band(shipped: shipped_curves.Shipped, digits: Workload) -> None:
    """Each is at hand under the key of its setting, and is the first of the seeds."""
    STORE.clear()
    teacher, step = mo.baseline("digits", "cnn"), mo.Distill()
    settings = [(step.changed(temperature=point.value), point.measurement) for point in shipped.points]
    for setting, told in [*settings, (step.alone, shipped.beside)]:
        assert told is not None
        assert shipped_curves.recall(setting.key([teacher], digits))
        student = setting.apply(teacher, digits)
        score = mo.measure(student, digits, baseline=teacher).score.value
        assert told.score.low - 1e-6 <= score <= told.score.high + 1e-6


@pytest.mark.parametrize("other", [{"width": 0.25}, {"alpha": 0.5}, {"loss": "dkd"}, {"epochs": 41}])
def test_another_setting_is_not_measured(digits: Workload, other: dict[str, object]) -> None:
    teacher, step = mo.baseline("digits", "cnn"), mo.Distill(**other)
    assert shipped_curves.curve(step, "temperature", teacher, digits) is None
    assert not shipped_curves.recall(step.key([teacher], digits))
    assert shipped_curves.curve(mo.Distill(), "alpha", teacher, digits) is None
    assert shipped_curves.curve(mo.Distill(), "temperature", mo.baseline("digits", "mlp"), digits) is None


def test_damaged_files_count_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Workload) -> None:
    STORE.clear()
    monkeypatch.setattr(shipped_curves, "asset_path", lambda *parts: tmp_path.joinpath(*parts))
    (tmp_path / "measured").mkdir()
    for name, text in {"a": "{", "b": "{}", "c": '{"step": {"step": "Distil"}}', "d": "[1]"}.items():
        (tmp_path / "measured" / f"{name}.json").write_text(text)
    (tmp_path / "measured" / "0123.mopt").write_bytes(b"MOPT?")
    assert shipped_curves.curve(mo.Distill(), "temperature", mo.baseline("digits", "cnn"), digits) is None
    assert not shipped_curves.recall("0123")
    assert not shipped_curves.recall("4567")
    STORE.clear()
