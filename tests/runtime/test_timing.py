"""One time for several ways through a model: times add up, their inverses do not."""

import pytest

from modelopt_core.runtime.latency import Timing, weighted
from modelopt_core.tasks.statistics import Estimate


def timing(latency_ms: float, baseline_ms: float, noisy: bool = False, spread: float = 0.0) -> Timing:
    """An exact timing; spread: a share by which the quartiles of all three lie off."""

    def estimate(value: float) -> Estimate:
        return Estimate(value, value * (1 - spread), value * (1 + spread), 10)

    return Timing(estimate(latency_ms), estimate(baseline_ms), estimate(baseline_ms / latency_ms), noisy)


def test_the_mean_speedup_of_two_ways_by_hand():
    """Half leave after 1 ms, half after 4, where the baseline takes 4: in all 2.5 of 4, 1.6 times, not 2.5 times."""
    found = weighted([timing(1, 4), timing(4, 4)], [0.5, 0.5])
    assert found.latency_ms.value == pytest.approx(2.5)
    assert found.baseline_ms.value == pytest.approx(4)
    assert found.speedup.value == pytest.approx(1.6)
    assert found.speedup.n == found.latency_ms.n == 20


def test_shares_weigh_by_hand():
    """Nine of ten take 2 ms, one 22: 4; the baseline 8 in both: 1 / (0.9 / 4 + 0.1 · 22 / 8) = 2."""
    found = weighted([timing(2, 8), timing(22, 8)], [0.9, 0.1])
    assert found.latency_ms.value == pytest.approx(4)
    assert found.speedup.value == pytest.approx(2)


def test_quartiles_go_along_by_hand():
    """Speedups of 2 and 4, each from half to one and a half of it: the lows 1, 2 make 4/3, the highs 3, 6 make 4."""
    found = weighted([timing(2, 4, spread=0.5), timing(1, 4, spread=0.5)], [0.5, 0.5]).speedup
    assert (found.low, found.value, found.high) == pytest.approx((4 / 3, 8 / 3, 4))


def test_one_way_is_itself_and_one_noisy_way_is_enough():
    one = timing(3, 6)
    found = weighted([one], [1.0])
    assert (found.latency_ms, found.baseline_ms, found.noisy) == (one.latency_ms, one.baseline_ms, False)
    assert found.speedup.value == pytest.approx(2)
    assert weighted([one, timing(1, 6, noisy=True)], [0.9, 0.1]).noisy
