"""Confidences: how sure is an answer? Pure functions of log-probabilities; 1 is certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from modelopt_core.machine.registry import Registry
from modelopt_core.tasks import nats

CONFIDENCES: Registry[Callable[[Tensor], Tensor]] = Registry("confidence")


@CONFIDENCES.register("max_prob")
def max_prob(said: Tensor) -> Tensor:
    """The probability of the answer: log-probabilities (B, K) -> (B,) in [0, 1].

    Source: Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks, arXiv 1610.02136.
    """
    return said.amax(dim=-1).exp()


@CONFIDENCES.register("margin")
def margin(said: Tensor) -> Tensor:
    """The answer's probability minus the runner-up's: log-probabilities (B, K) -> (B,) in [0, 1].

    Source: Scheffer, Decomain and Wrobel, Active Hidden Markov Models for Information Extraction, IDA 2001.
    """
    if said.shape[-1] == 1:
        return said.amax(dim=-1).exp()
    best = said.topk(2, dim=-1).values.exp()  # (B, 2)
    return best[:, 0] - best[:, 1]


@CONFIDENCES.register("entropy")
def entropy(said: Tensor) -> Tensor:
    """1 − entropy / log K: log-probabilities (B, K) -> (B,) in [0, 1]. A uniform answer is 0.

    Source: Teerapittayanon, McDanel and Kung, BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks,
    arXiv 1709.01686.
    """
    return (1 - nats.entropy(said) / max(math.log(said.shape[-1]), 1e-9)).clamp(0, 1)


def stops(confidence: Tensor, thresholds: Tensor | Sequence[float]) -> Tensor:
    """(S, N) confidences, (S − 1,) thresholds -> (N,): the first stage as sure as its threshold, else the last."""
    limits = torch.as_tensor(thresholds, dtype=confidence.dtype)
    sure = confidence[:-1] >= limits[:, None]
    return torch.cat([sure, torch.ones_like(sure[:1])]).int().argmax(dim=0)
