"""Is a model right as often as it says? Reliability, its summary in one number, and the scalar that mends most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.tasks import nats

LOWEST, HIGHEST = 0.01, 100.0  # temperatures; beyond, the answers of float32 no longer change
STEPS, CLOSE = 50, 1e-7


@dataclass(frozen=True)
class Bin:
    """Examples of like confidence: how sure the model was on average, and how often it was right."""

    confidence: float
    score: float
    n: int


def reliability(confidence: Tensor, scores: Tensor, bins: int | None = None) -> list[Bin]:
    """Bins of equal mass, the least sure first: confidence (N,) in [0, 1], scores (N,) of right or wrong.

    bins: without a number the cube root of N: with more, chance makes their scores differ, with fewer they hide what
    does. Examples of one confidence count as their mean, in whichever bins they come to lie: their order means nothing.
    Source: Nguyen and O'Connor, Posterior calibration and exploratory analysis for NLP models, arXiv 1508.05154; how
    many: Futami and Fujisawa, Information-theoretic Generalization Analysis for Expected Calibration Error, arXiv
    2405.15709.
    """
    bins = max(1, round(len(confidence) ** (1 / 3))) if bins is None else bins
    if bins < 1 or len(confidence) == 0:
        raise ModelOptError(f"{bins} bins of {len(confidence)} examples make no curve; at least 1 of each is needed")
    values, place, count = confidence.unique(return_inverse=True, return_counts=True)  # rising
    right = torch.zeros(len(values), dtype=torch.double).index_add(0, place, scores.double()) / count
    parts = (each.repeat_interleave(count).tensor_split(bins) for each in (values.double(), right))
    return [Bin(float(c.mean()), float(s.mean()), len(c)) for c, s in zip(*parts, strict=True) if len(c)]


def ece(confidence: Tensor, scores: Tensor, bins: int | None = None) -> float:
    """Expected calibration error: |right − sure| averaged over the bins of `reliability`, by their size.

    Chance adds to it: also what is right exactly as often as it says is not so in every bin of a few examples.
    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, eq. 3; equal-mass bins.
    """
    found = reliability(confidence, scores, bins)
    return sum(b.n * abs(b.score - b.confidence) for b in found) / len(confidence)


def fit_temperature(said: Tensor, targets: Tensor) -> float:
    """The temperature T whose softmax(log p / T) has the least log loss: (N, K) log-probabilities, targets (N,).

    Newton's method in 1 / T, where the loss is convex: slope E[log p] − log p of the truth, curvature Var[log p].
    Examples whose truth is impossible, −∞, lose as much at any T: they are left out, and without others T is 1.
    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, sec. 4.2.
    """
    truth = said.gather(1, targets[:, None])[:, 0].double()  # (N,)
    told = truth > -torch.inf
    if not told.any():
        return 1.0
    truth, said = truth[told], nats.possible(said[told].double()).t().contiguous()  # (K, N): sums over K are fast
    low, high, cold = 1 / HIGHEST, 1 / LOWEST, 1.0  # of 1 / T
    for _ in range(STEPS):
        p = torch.softmax(cold * said, dim=0)
        expected = (p * said).sum(dim=0)
        slope = float((expected - truth).mean())
        curvature = float(((p * said.square()).sum(dim=0) - expected.square()).mean())
        low, high = (low, cold) if slope > 0 else (cold, high)
        step = cold - slope / curvature if curvature > 0 else 0.0
        before, cold = cold, step if low < step < high else (low + high) / 2
        if abs(cold - before) < CLOSE * cold:
            break
    return 1 / cold


@dataclass(frozen=True)
class Calibrated:
    """Reliability as it is and at the fitted temperature, each with its expected calibration error."""

    temperature: float
    before: list[Bin]
    after: list[Bin]
    ece_before: float
    ece_after: float


def calibrated(said: Tensor, targets: Tensor) -> Calibrated:
    """(N, K) log-probabilities, targets (N,) -> how well calibrated they are, and how well with one temperature."""
    right, temperature = (said.argmax(dim=1) == targets).float(), fit_temperature(said, targets)
    first, then = (tempered(said, t).amax(dim=1).exp() for t in (1.0, temperature))
    return Calibrated(
        temperature, reliability(first, right), reliability(then, right), ece(first, right), ece(then, right)
    )


def tempered(said: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (…, K) at another temperature: flatter above 1, sharper below; the answers stay."""
    by_class = (said / temperature).movedim(-1, 0).contiguous()  # classes first: sums over them are fast
    return torch.log_softmax(by_class, dim=0).movedim(0, -1)
