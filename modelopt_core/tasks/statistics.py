"""A number that knows where it comes from: its interval, how many examples stand behind it, and how it was had.

Intervals hold the true value 95 times of 100. Those shown while a slider moves are closed form (`mean_interval`,
`difference`); a `bootstrap` assumes less and may arrive later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelopt_core.errors import ModelOptError, unknown

HOW = ("measured", "simulated", "fitted", "theoretical")
Z = 1.959963984540054  # the standard normal's 97.5 % point: 95 % lie within ± Z
_BLOCK = 1 << 20  # counts drawn at a time: 8 MB, whatever the number of examples


@dataclass(frozen=True)
class Estimate:
    """`value` between `low` and `high`, from `n` observations.

    how: measured (really run), simulated (fake-quantized, masked), fitted (run, on the examples that the model was
    fitted to: too good) or theoretical (MACs, entropy).
    """

    value: float
    low: float
    high: float
    n: int
    how: str = "measured"

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise unknown("how", self.how, HOW)
        if not self.low <= self.value <= self.high:
            raise ModelOptError(f"an estimate needs low ≤ value ≤ high, not {self.low} ≤ {self.value} ≤ {self.high}")
        if self.n < 1:
            raise ModelOptError(f"an estimate needs at least 1 observation, not {self.n}")


def wilson(successes: int, n: int, how: str = "measured") -> Estimate:
    """Proportion successes / n with its score interval, which stays inside [0, 1] and has width at 0 and at n.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927
    """
    if not 0 <= successes <= n or n < 1:
        raise ModelOptError(f"a proportion needs 0 ≤ successes ≤ n and n ≥ 1, not {successes} of {n}")
    p = successes / n
    return _score_interval(p, p * (1 - p), n, how)


def mean_interval(example_scores: ArrayLike, how: str = "measured") -> Estimate:
    """Mean of per-example scores (n,) in [0, 1]: Wilson's interval, with their own variance in place of p (1 − p).

    Of right and wrong it is his own; of many graded scores it comes to mean ± Z standard errors; where all n are equal
    it is Z² / (n + Z²) wide, as his is at 0 and at n: what was never seen may still be there.
    """
    scores = _vector(example_scores, "scores")
    if scores.min() < 0 or scores.max() > 1:
        raise ModelOptError(f"scores lie in [0, 1], not in [{scores.min():g}, {scores.max():g}]")
    if np.isin(scores, (0.0, 1.0)).all():
        return wilson(int(scores.sum()), scores.size, how)
    mean = min(1.0, max(0.0, float(scores.mean())))
    if scores.size == 1:  # alone it says nothing about the spread
        return Estimate(mean, 0.0, 1.0, 1, how)
    return _score_interval(mean, float(scores.var()), scores.size, how)


def difference(before: ArrayLike, after: ArrayLike, how: str = "measured") -> Estimate:
    """Mean change (after − before) of paired scores (n,), (n,) in [0, 1]: in [-1, 1], ± Z standard errors.

    Pairing pays: both models see the same examples, so what makes an example hard cancels out. Half a win, half a loss
    and one tie are added first, so that "nobody changed" and "all changed alike" still have a width.
    Source: A. Agresti, Y. Min, Simple Improved Confidence Intervals for Comparing Matched Proportions, 2005
    """
    first, second = _pair(before, after, "scores")
    change = second - first
    if change.size == 1 and not float(change[0]).is_integer():
        return Estimate(float(change[0]), -1.0, 1.0, 1, how)
    n, mean = change.size + 2, float(change.mean())
    center = float(change.sum()) / n
    half = Z * math.sqrt((float(np.square(change).sum() + 1) / n - center * center) / n)
    return Estimate(mean, max(-1.0, min(mean, center - half)), min(1.0, max(mean, center + half)), change.size, how)


def bootstrap(scores: ArrayLike, resamples: int = 1000, seed: int = 0, how: str = "measured") -> Estimate:
    """Mean of scores (n,), any real numbers, between the 2.5 % and 97.5 % quantiles of `resamples` resampled means.

    A resampled mean depends on how often each distinct score was drawn and on nothing else, and those counts are
    multinomial: 0/1 scores cost two draws a resample instead of n.
    Source: B. Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 7, 1979
    """
    sample = _vector(scores, "scores")
    if resamples < 1:
        raise ModelOptError(f"a bootstrap needs at least 1 resample, not {resamples}")
    values, counts = np.unique(sample, return_counts=True)
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // values.size)
    blocks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    draws = (generator.multinomial(sample.size, counts / sample.size, size=block) @ values for block in blocks)
    means = np.concatenate(list(draws)) / sample.size
    low, high = np.quantile(means, (0.025, 0.975))
    value = float(sample.mean())
    return Estimate(value, min(value, float(low)), max(value, float(high)), sample.size, how)


def median_quartiles(samples: ArrayLike, how: str = "measured") -> Estimate:
    """Median of samples (n,) between their quartiles: for a latency, whose tail tells of the machine, not the model."""
    values = _vector(samples, "samples")
    low, median, high = map(float, np.quantile(values, (0.25, 0.5, 0.75)))
    return Estimate(median, low, high, values.size, how)


class Flips(NamedTuple):
    """Examples `won` (wrong before, right after) and `lost`; p: chance of so uneven a split if neither is better."""

    won: int
    lost: int
    p: float


def mcnemar(before_correct: ArrayLike, after_correct: ArrayLike) -> Flips:
    """Exact two-sided test on paired answers (n,), (n,) of 0/1: only the examples that changed sides speak.

    p = 2 P(X ≤ min(won, lost)), X ~ Binomial(won + lost, 1/2), at most 1; summed in integers, rounded once.
    Source: Q. McNemar, Sampling Error of the Difference between Correlated Proportions, Psychometrika 12, 1947
    """
    before, after = _pair(before_correct, after_correct, "answers")
    if not np.isin((before, after), (0.0, 1.0)).all():
        raise ModelOptError("McNemar's test compares right with wrong: every answer is 0 or 1")
    won, lost = int(np.sum(after > before)), int(np.sum(after < before))
    n = won + lost
    ways = total = 1
    for k in range(min(won, lost)):  # C(n, k + 1) from C(n, k)
        ways = ways * (n - k) // (k + 1)
        total += ways
    return Flips(won, lost, min(1.0, 2 * total / 2**n))


def holm(ps: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Which tests stay significant when all m are asked at once: the k-th lowest p (from 0) at most alpha / (m − k).

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statist. 6, 1979
    """
    if wrong := [p for p in ps if not 0 <= p <= 1]:
        raise ModelOptError(f"a p-value of {wrong[0]:g} is none; p-values lie in [0, 1], so leave out what has none")
    clear, still = [False] * len(ps), True
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        still = still and ps[at] <= alpha / (len(ps) - rank)
        clear[at] = still
    return clear


def verdict(p: float, delta: float, alpha: float = 0.05) -> str:
    """What a page says of a change `delta` with p-value `p`: better, worse, or not significant where p > alpha."""
    if not p <= alpha or delta == 0:
        return "not significant"
    return "better" if delta > 0 else "worse"


def _score_interval(mean: float, variance: float, n: int, how: str) -> Estimate:
    """Wilson's interval of a mean in [0, 1], from n observations with this variance; his own is of p (1 − p)."""
    z2 = Z * Z / n
    center = (mean + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (variance + z2 / 4)) / (1 + z2)
    return Estimate(mean, max(0.0, min(mean, center - half)), min(1.0, max(mean, center + half)), n, how)


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ModelOptError(f"{name} must be one number per example, at least one; got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ModelOptError(f"{name} must be finite; {int(np.sum(~np.isfinite(array)))} of {array.size} are not")
    return array


def _pair(first: ArrayLike, second: ArrayLike, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _vector(first, name), _vector(second, name)
    if a.size != b.size:
        raise ModelOptError(f"paired {name} must be of the same examples; got {a.size} and {b.size}")
    return a, b
