"""Timings that another process disturbed: timed again when the machine is calm, and until then off the line."""

import sys
import time
from types import SimpleNamespace

import pytest

import modelopt_core as mo
from modelopt_core.measuring.measurement import retimed
from modelopt_core.runtime import latency
from modelopt_core.steps.recipe import Point
from modelopt_core.studies.background import Instead, Later, Sweep, Sweeper
from modelopt_core.tasks.statistics import Estimate
from pages.draw.dial.columns import point, to_columns
from pages.work import trial
from tests.waiting import wait_until

measuring = sys.modules["modelopt_core.measuring.measurement"]
BASELINE = {"size_bytes": 200, "latency_ms": 0.5}


def timed(ms: float, *, spread: float = 1.1, noisy: bool = False) -> latency.Timing:
    """A timing whose baseline took 1 ms; spread: of the quartiles around the median."""

    def around(value: float) -> Estimate:
        return Estimate(value, value / spread, value * spread, 7)

    return latency.Timing(around(ms), around(1.0), around(1 / ms), noisy)


@pytest.fixture
def stopwatch(monkeypatch):
    """What `_latency` finds, one after the other; the last again and again."""
    queue: list[latency.Timing] = []
    monkeypatch.setattr(measuring, "_latency", lambda *_: queue.pop(0) if len(queue) > 1 else queue[0])
    return queue


@pytest.fixture
def bench():
    w = mo.workload("digits")
    measuring.STORE.clear()
    return SimpleNamespace(workload=w, model=mo.baseline("digits", "mlp"), runtime="onnx", device="cpu")


def test_a_disturbed_timing_is_replaced_and_measure_says_so(bench, stopwatch):
    w, model = bench.workload, bench.model
    small = mo.Prune(ratio=0.5).apply(model, w)
    stopwatch[:] = [timed(2.0, noisy=True), timed(0.5)]
    first = mo.measure(small, w, baseline=model)
    assert first.noisy
    assert mo.measure(small, w, baseline=model) is first
    again = retimed(first, small, w, baseline=model)
    assert (again.noisy, again.latency_ms.value, again.speedup.value) == (False, 0.5, 2.0)
    assert mo.measure(small, w, baseline=model) is again
    assert (again.score, again.size_bytes, again.runtime) == (first.score, first.size_bytes, first.runtime)


def test_of_two_disturbed_timings_the_narrower_stays(bench, stopwatch):
    w, model = bench.workload, bench.model
    stopwatch[:] = [timed(2.0, spread=1.5, noisy=True), timed(3.0, spread=2.0, noisy=True)]
    first = mo.measure(model, w)
    assert retimed(first, model, w) is first
    stopwatch[:] = [timed(1.5, spread=1.2, noisy=True)]
    better = retimed(first, model, w)
    assert (better.noisy, better.latency_ms.value) == (True, 1.5)
    assert mo.measure(model, w) is better


def test_a_baseline_first_timed_in_noise_does_not_stay_the_yardstick(bench, monkeypatch):
    """First 2 ms, while the machine was held; then 1 ms: odd against the first, and what is expected from then on."""
    expected: list[float | None] = []
    queue = [2.0, 1.0, 1.0]

    def interleave(fast, slow, expected_ms=None):
        expected.append(expected_ms)
        now = queue.pop(0)
        moved = expected_ms is not None and abs(now / expected_ms - 1) > latency.DRIFT
        return latency.Timing(Estimate(now, now, now, 7), Estimate(now, now, now, 7), Estimate(1, 1, 1, 7), moved)

    monkeypatch.setattr(latency, "interleave", interleave)
    w, model = bench.workload, bench.model
    mo.measure(model, w)
    second = mo.measure(mo.Prune(ratio=0.5).apply(model, w), w, baseline=model)
    assert second.noisy
    again = retimed(second, mo.Prune(ratio=0.5).apply(model, w), w, baseline=model)
    assert (again.noisy, expected) == (False, [None, 2.0, 1.0])


def test_the_curve_times_its_noisy_points_again_after_the_last(bench, monkeypatch):
    """Points 0 to 3, of which 1 and 3 were disturbed; 3 is calm at the first try, 1 at the second."""
    tries = {0.0: [False], 1.0: [True, True, False], 2.0: [False], 3.0: [True, False]}

    def told(value: float) -> SimpleNamespace:
        return SimpleNamespace(noisy=tries[value].pop(0), value=value)

    handle = SimpleNamespace(knob=SimpleNamespace(values=lambda _: [0.0, 1.0, 2.0, 3.0]), at=lambda value: value)
    monkeypatch.setattr(trial, "origin", lambda *_: None)
    monkeypatch.setattr(trial, "_model", lambda *_: None)
    monkeypatch.setattr(trial, "_applied", lambda setting, value, *_: value)
    monkeypatch.setattr(trial, "_measured", lambda bench, value, *_: told(value))
    monkeypatch.setattr(trial, "retimed", lambda found, value, *_, **__: told(value))
    steps = list(trial._curve(SimpleNamespace(bench=bench, members=()), handle))
    assert [type(step) for step in steps] == [*[Point] * 4, Later, Instead, Instead, Later, Instead]
    assert [step.at for step in steps if isinstance(step, Instead)] == [1, 3, 1]
    assert [step.seconds for step in steps if isinstance(step, Later)] == list(trial.AGAIN_S[:2])
    tries = {0.0: [True] * 9, 1.0: [False], 2.0: [False], 3.0: [False]}
    steps = list(trial._curve(SimpleNamespace(bench=bench, members=()), handle))
    assert len(steps) == 4 + 2 * len(trial.AGAIN_S), "a machine that never calms down is not asked for ever"


def test_a_better_point_takes_the_place_of_the_worse():
    sweep: Sweep[str] = Sweep(2, lambda: iter(["a", "noisy", Later(0.0), Instead(1, "b")]))
    while not sweep.done:
        sweep.advance()
    assert (sweep.points, sweep.error) == (["a", "b"], "")


def test_who_waits_for_a_calm_machine_holds_nobody_up():
    sweeper = Sweeper()
    try:
        other = sweeper.request("other", 1, lambda: iter(["x"]))
        wait_until(lambda: other.done, "the first curve")
        waits = sweeper.request("waits", 1, lambda: iter(["noisy", Later(0.3), Instead(0, "calm")]))
        wait_until(lambda: waits.points, "its first point")
        begun = time.monotonic()
        late = sweeper.request("late", 1, lambda: iter(["y"]))
        wait_until(lambda: late.done, "the curve that came later")
        wait_until(lambda: waits.done, "the noisy point again")
        assert waits.points == ["calm"]
        assert time.monotonic() - begun >= 0.2, "it was not timed again at once"
    finally:
        sweeper.stop()


def test_a_finished_curve_lets_go_of_what_it_was_measured_on():
    import gc
    import weakref

    class Data:
        pass

    data = Data()
    gone = weakref.ref(data)
    sweep: Sweep[int] = Sweep(1, lambda data=data: (len(str(data)) for _ in range(1)))
    del data
    while not sweep.done:
        sweep.advance()
    gc.collect()
    assert gone() is None
    assert len(sweep.points) == 1


def test_a_noisy_point_stands_off_the_line_by_hand():
    rows = [
        {"x": x, "score": 0.5, "size_bytes": 50, "latency_ms": 0.25 * ratio, "latency_ratio": ratio,
         "latency_ratio_low": ratio / 2, "latency_ratio_high": 2 * ratio, "noisy": noisy}
        for x, ratio, noisy in ((0.0, 1.0, False), (0.5, 2.0, True), (1.0, 0.5, False))
    ]  # fmt: skip
    columns = to_columns(rows, BASELINE)
    assert (columns["latency"], columns["noisy"]) == ([100.0, None, 50.0], [None, 200.0, None])
    assert (columns["latency_low"], columns["noisy_low"]) == ([50.0, None, 25.0], [None, 100.0, None])
    assert (columns["latency_high"], columns["noisy_high"]) == ([200.0, None, 100.0], [None, 400.0, None])
    assert (columns["score"], columns["size"]) == ([50.0] * 3, [25.0] * 3), "which nobody disturbed"
    calm = to_columns([{**row, "noisy": False} for row in rows], BASELINE)
    assert "noisy" not in calm
    assert calm["latency"] == [100.0, 200.0, 50.0]


def test_a_noisy_measurement_makes_a_noisy_point(bench, stopwatch):
    stopwatch[:] = [timed(2.0, noisy=True)]
    assert point(0.5, mo.measure(bench.model, bench.workload))["noisy"] is True
