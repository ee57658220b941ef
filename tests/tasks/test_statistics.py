"""Intervals and tests: by hand first, then against SciPy, then over sizes including 1."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modelopt_core.errors import ModelOptError
from modelopt_core.tasks.statistics import (
    Estimate,
    bootstrap,
    difference,
    holm,
    mcnemar,
    mean_interval,
    median_quartiles,
    verdict,
    wilson,
)


def test_wilson_by_hand() -> None:
    """8 of 10: (0.8 + 0.192) / 1.384 ± 1.96 √(0.016 + 0.0096) / 1.384, with z² = 3.84."""
    estimate = wilson(8, 10)
    assert estimate.value == 0.8
    assert estimate.low == pytest.approx(0.4902, abs=1e-4)
    assert estimate.high == pytest.approx(0.9433, abs=1e-4)
    assert (estimate.n, estimate.how) == (10, "measured")


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    successes, n = case
    ours, theirs = wilson(successes, n), stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ModelOptError, match=f"not {successes} of {n}"):
        wilson(successes, n)


def test_mean_of_right_and_wrong_is_wilson() -> None:
    assert mean_interval(torch.tensor([1.0, 0.0, 1.0, 1.0])) == wilson(3, 4)
    assert mean_interval([True]) == wilson(1, 1)


def test_mean_of_many_graded_scores_is_the_normal_interval() -> None:
    scores = np.random.default_rng(0).random(20_000)
    ours, theirs = mean_interval(scores), stats.norm.interval(0.95, scores.mean(), stats.sem(scores))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=2e-5)
    assert ours.n == 20_000


def test_mean_of_graded_scores_solves_wilsons_equation() -> None:
    """Each limit m is as far from the mean as Z standard errors and what pulls towards ½: (m − x̄)² (n + Z²) = …"""
    scores, z2 = np.random.default_rng(0).random(30), stats.norm.ppf(0.975) ** 2
    ours, n, mean = mean_interval(scores), 30, scores.mean()
    for m in (ours.low, ours.high):  # Wilson: n (p̂ − p)² = z² p (1 − p), with p̂ (1 − p̂) exchanged for the variance
        excess = scores.var() - mean * (1 - mean)
        assert n * (mean - m) ** 2 == pytest.approx(z2 * (m * (1 - m) + excess / (1 + z2 / n)), rel=1e-9)


@pytest.mark.parametrize("n", [2, 20, 1000])
@pytest.mark.parametrize("score", [0.0, 0.25, 0.5, 1 - 1e-12, 1.0])
def test_equal_scores_have_the_width_of_wilson_at_the_edge(score: float, n: int) -> None:
    found, edge = mean_interval([score] * n), stats.binomtest(n, n).proportion_ci(method="wilson")
    assert found.high - found.low == pytest.approx(edge.high - edge.low, rel=1e-6)
    assert 0 <= found.low <= score <= found.high <= 1


def test_equal_graded_changes_have_a_width() -> None:
    """All gained 0.1 of 20: with ½, ½ and a tie added 2 / 22 ± 1.96 √((1.2 / 22 − (2 / 22)²) / 22)."""
    found = difference([0.5] * 20, [0.6] * 20)
    half = stats.norm.ppf(0.975) * math.sqrt((1.2 / 22 - (2 / 22) ** 2) / 22)
    assert (found.low, found.high) == pytest.approx((2 / 22 - half, 2 / 22 + half))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.randoms(use_true_random=False))
def test_intervals_do_not_depend_on_the_order(scores: list[float], draw: random.Random) -> None:
    other = draw.sample(scores, len(scores))
    first, second = mean_interval(scores), mean_interval(other)
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


def test_one_graded_score_says_nothing_about_the_spread() -> None:
    assert mean_interval([0.25], how="simulated") == Estimate(0.25, 0.0, 1.0, 1, "simulated")


def test_difference_by_hand() -> None:
    """2 won, 1 lost of 8, then 10 with ½, ½ and a tie added: 0.1 ± 1.96 √((4 / 10 − 0.01) / 10)."""
    before, after = [0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1, 0, 0]
    estimate = difference(before, after)
    assert estimate.value == 0.125
    assert (estimate.low, estimate.high) == pytest.approx((0.1 - 0.38706, 0.1 + 0.38706), abs=1e-4)


def test_difference_of_many_graded_scores_is_the_paired_normal_interval() -> None:
    generator = np.random.default_rng(1)
    before = generator.random(20_000)
    after = np.clip(before + 0.1 * generator.standard_normal(20_000), 0, 1)
    ours = difference(before, after)
    theirs = stats.norm.interval(0.95, (after - before).mean(), stats.sem(after - before))
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=2e-5)


def test_unchanged_answers_still_have_a_width() -> None:
    wide, narrow = difference([1, 0], [1, 0]), difference([1] * 1000, [1] * 1000)
    assert wide.value == narrow.value == 0
    assert wide.high > narrow.high > 0 > narrow.low > wide.low


def test_difference_covers_the_truth_about_95_times_of_100() -> None:
    generator = np.random.default_rng(2)
    changes = generator.choice([-1, 0, 1], p=[0.05, 0.87, 0.08], size=(1000, 100))
    covered = [d.low <= 0.03 <= d.high for d in (difference(row < 0, row > 0) for row in changes)]
    assert 0.93 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("graded", [False, True])
def test_bootstrap_is_scipys(graded: bool) -> None:
    generator = np.random.default_rng(3)
    scores = generator.random(300) if graded else (generator.random(300) < 0.9).astype(float)
    ours = bootstrap(scores, resamples=4000, seed=1)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=4000, method="percentile", rng=4).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert ours.value == pytest.approx(scores.mean())


def test_bootstrap_is_seeded_and_leaves_the_global_generator_alone() -> None:
    scores = np.random.default_rng(5).random(40)
    state = np.random.get_state()[1].copy()  # noqa: NPY002  the state that must not move
    assert bootstrap(scores, seed=7) == bootstrap(scores, seed=7) != bootstrap(scores, seed=8)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("scores", [[0.3], [1.0], [-1.0, 0.0, 1.0], [0.5, 0.5]])
def test_bootstrap_of_few(scores: list[float]) -> None:
    estimate = bootstrap(scores, resamples=20)
    assert min(scores) <= estimate.low <= estimate.value <= estimate.high <= max(scores)


def test_median_and_quartiles() -> None:
    assert median_quartiles([5.0, 1.0, 2.0, 3.0, 4.0]) == Estimate(3.0, 2.0, 4.0, 5)
    assert median_quartiles([0.7]) == Estimate(0.7, 0.7, 0.7, 1)


def test_mcnemar_by_hand() -> None:
    """3 won, 1 lost: p = 2 (C(4, 0) + C(4, 1)) / 2⁴ = 10 / 16."""
    won, lost, p = mcnemar([0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 1, 0])
    assert (won, lost, p) == (3, 1, 0.625)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 50))
def test_mcnemar_is_the_binomial_test(won: int, lost: int, same: int) -> None:
    before = np.repeat([0, 1, 1], [won, lost, same])
    after = np.repeat([1, 0, 1], [won, lost, same])
    flips = mcnemar(before, after)
    assert (flips.won, flips.lost) == (won, lost)
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert flips.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_does_not_depend_on_which_is_first() -> None:
    before, after = [0, 1, 1, 0, 1], [1, 1, 0, 1, 1]
    assert mcnemar(before, after).p == mcnemar(after, before).p


@pytest.mark.parametrize(
    ("p", "delta", "word"),
    [
        (0.2, 0.1, "not significant"),
        (0.0501, -0.1, "not significant"),
        (0.05, -0.1, "worse"),
        (0.01, 0.1, "better"),
        (0.01, -0.1, "worse"),
    ],
)
def test_verdict(p: float, delta: float, word: str) -> None:
    assert verdict(p, delta) == word


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: Estimate(1, 0, 2, 1, "guessed"),
            "unknown how 'guessed'; choose from fitted, measured, simulated, theoretical",
        ),
        (lambda: Estimate(3, 0, 2, 1), "low ≤ value ≤ high, not 0 ≤ 3 ≤ 2"),
        (lambda: Estimate(math.nan, 0, 2, 1), "not 0 ≤ nan ≤ 2"),
        (lambda: Estimate(1, 0, 2, 0), "at least 1 observation, not 0"),
        (lambda: mean_interval([]), r"at least one; got shape \(0,\)"),
        (lambda: mean_interval([[1.0, 0.0]]), r"one number per example, at least one; got shape \(1, 2\)"),
        (lambda: mean_interval([0.5, math.nan]), "scores must be finite; 1 of 2 are not"),
        (lambda: mean_interval([0.5, 1.5]), r"scores lie in \[0, 1\], not in \[0.5, 1.5\]"),
        (lambda: median_quartiles([]), "samples must be one number per example"),
        (lambda: bootstrap([1.0], resamples=0), "at least 1 resample, not 0"),
        (lambda: difference([1], [1, 0]), "got 1 and 2"),
        (lambda: mcnemar([1], [1, 0]), "got 1 and 2"),
        (lambda: mcnemar([0.5], [1]), "every answer is 0 or 1"),
    ],
)
def test_errors_say_what_is_wrong(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        call()


def test_holm_by_hand() -> None:
    """0.05 / 3, then 0.05 / 2, then 0.05; what follows the first failure fails."""
    assert holm([0.02, 0.01, 0.04]) == [True, True, True]
    assert holm([0.03, 0.01, 0.04]) == [False, True, False]
    assert holm([0.04]) == [True]
    assert holm([]) == []


def test_holm_at_the_boundary() -> None:
    """At most alpha / m is enough: 0.05 / 2 of two, 0.05 of one."""
    assert holm([0.025, 0.05]) == [True, True]
    assert holm([0.05]) == [True]
    assert holm([0.02500001, 0.05]) == [False, False]


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.5])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    with pytest.raises(ModelOptError, match=rf"a p-value of {p:g} is none; p-values lie in \[0, 1\]"):
        holm([p, 0.001])
    assert verdict(math.nan, 0.1) == "not significant"
