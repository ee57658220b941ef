"""Rules: pure functions that make one answer of several. Log-probabilities in, log-probabilities out.

Each declares whether M identical members give that member back (idempotent), whether its log loss is convex in the
weights (convex, so that the best weights are found for sure), and whether a class's result depends on what was said
about that class only (pointwise, so that the log loss needs the true class alone). A member of weight 0 is as if
absent; a class may be impossible, −∞, and what comes out is finite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modelopt_core.machine.registry import Registry
from modelopt_core.tasks import nats

RULES: Registry[Callable[[Tensor, Tensor], Tensor]] = Registry("rule")

TINY = 1e-30  # the smallest probability whose logarithm is taken
TIE = 1e-4  # share of `mean` in a count of votes: it decides ties and keeps every probability above zero
SURE = -1e-6  # log-probability above which a class counts as this likely: the log-odds of certainty are infinite


@RULES.register("mean", idempotent=True, convex=True, pointwise=True)
def mean(said: Tensor, weights: Tensor) -> Tensor:
    """log Σ w p, the average opinion: log-probabilities (M, B, K), weights (M,) that sum to 1 -> (B, K).

    Source: Stone, The Opinion Pool, Annals of Mathematical Statistics 32, 1961; Lakshminarayanan et al., Simple and
    Scalable Predictive Uncertainty Estimation using Deep Ensembles, arXiv 1612.01474.
    """
    return _weighed(weights, said.exp()).clamp_min(TINY).log()


@RULES.register("geometric", idempotent=True, convex=True, pointwise=False)
def geometric(said: Tensor, weights: Tensor) -> Tensor:
    """Σ w log p, normalised: the softmax of averaged logits. (M, B, K), (M,) -> (B, K). One firm no is a veto.

    Source: Genest and Zidek, Combining Probability Distributions, Statistical Science 1, 1986 (logarithmic pool).
    """
    return torch.log_softmax(_weighed(weights, nats.possible(said)), dim=-1)


@RULES.register("product", idempotent=False, convex=False, pointwise=False)
def product(said: Tensor, weights: Tensor) -> Tensor:
    """M Σ w log p, normalised: every member adds its evidence in full. (M, B, K), (M,) -> (B, K). Grows very sure.

    M counts the members that have a weight.

    Source: Hinton, Training Products of Experts by Minimizing Contrastive Divergence, Neural Computation 14, 2002.
    """
    return torch.log_softmax((weights > 0).to(said.dtype).sum() * _weighed(weights, nats.possible(said)), dim=-1)


@RULES.register("logit", idempotent=True, convex=False, pointwise=False)
def logit(said: Tensor, weights: Tensor) -> Tensor:
    """The average of log-odds, log p / (1 − p) class by class, normalised: (M, B, K), (M,) -> (B, K).

    Source: Satopää et al., Combining multiple probability predictions using a simple logit model, International Journal
    of Forecasting 30, 2014.
    """
    said = nats.possible(said).clamp(max=SURE)
    odds = _weighed(weights, said - torch.log1p(-said.exp()))
    return torch.log_softmax(-torch.nn.functional.softplus(-odds), dim=-1)


@RULES.register("vote", idempotent=False, convex=False, pointwise=False)
def vote(said: Tensor, weights: Tensor) -> Tensor:
    """The share of weight behind each member's first choice: (M, B, K), (M,) -> (B, K). The mean decides ties.

    Source: Lam and Suen, Application of majority voting to pattern recognition, IEEE Transactions SMC-A 27, 1997.
    """
    by_class = _by_class(said)
    first = (by_class == by_class.amax(dim=0)).to(said.dtype)
    return _counted(first / first.sum(dim=0), said, weights)


@RULES.register("borda", idempotent=False, convex=False, pointwise=False)
def borda(said: Tensor, weights: Tensor) -> Tensor:
    """A point for every class that a class beats in a member's ranking: (M, B, K), (M,) -> (B, K). Ties: as `vote`.

    Source: Ho, Hull and Srihari, Decision Combination in Multiple Classifier Systems, IEEE PAMI 16, 1994.
    """
    by_class = _by_class(said)
    classes = len(by_class)
    twice = torch.cat([by_class, by_class])  # from d on: every class's neighbour, d further round
    fits = torch.uint8 if classes <= 256 else torch.int32  # the narrow one is several times faster
    beaten = torch.zeros(by_class.shape, dtype=fits, device=said.device)
    for d in range(1, classes):
        beaten += by_class > twice[d : d + classes]
    return _counted(beaten.to(said.dtype) * (2 / max(1, classes * (classes - 1))), said, weights)


def _by_class(said: Tensor) -> Tensor:
    """(M, B, K) -> (K, M, B), where what is compared lies in one piece: several times faster."""
    return said.permute(2, 0, 1).contiguous()


def _weighed(weights: Tensor, values: Tensor) -> Tensor:
    """weights (M,) and values (M, B, K) -> (B, K)"""
    return torch.tensordot(weights, values, dims=1)


def _counted(points: Tensor, said: Tensor, weights: Tensor) -> Tensor:
    """Points (K, M, B) as log-probabilities (B, K), with a little of `mean`."""
    share = (1 - TIE) * (weights @ points).t() + TIE * _weighed(weights, said.exp())
    return (share / share.sum(dim=-1, keepdim=True)).clamp_min(TINY).log()
