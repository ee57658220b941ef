"""Entropy and divergence of log-probabilities, in nats. A class may be impossible, −∞: 0 · log 0 is 0."""

from __future__ import annotations

from torch import Tensor, where

LEAST = -1e4  # what −∞ counts as where it is weighed: still a probability of 0, and 0 times it is 0


def possible(said: Tensor) -> Tensor:
    """Log-probabilities, none of them −∞: those of impossible classes are LEAST."""
    return said.clamp_min(LEAST)


def entropy(said: Tensor) -> Tensor:
    """−Σ p log p: log-probabilities (…, K) -> (…)."""
    return -(said.exp() * possible(said)).sum(dim=-1)


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """−Σ p log q: log-probabilities (…, K), (…, K) -> (…); ∞ where q rules out what p finds possible."""
    p = log_p.exp()
    return -(p * where(p > 0, log_q, 0)).sum(dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q): log-probabilities (…, K), (…, K) -> (…); ∞ where q rules out what p finds possible."""
    p = log_p.exp()
    return (p * where(p > 0, log_p - log_q, 0)).sum(dim=-1)
