"""What temperature does to what a teacher says: arithmetic on kept predictions, nothing runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.distill.losses import log_softmax
from modelopt_core.tasks import nats


@dataclass(frozen=True, eq=False)
class Softened:
    """What a student sees at one temperature.

    probabilities: (N, K). alike: (K, K), row i: among examples of class i, how what is not given to i is shared out
    over the others; rows sum to 1, the diagonal is 0; a class without examples has zeros. entropy_bits: the mean over
    examples; log2 K would be all classes alike.
    """

    temperature: float
    probabilities: Tensor
    alike: Tensor
    entropy_bits: float


def soften(logits: Tensor, labels: Tensor, temperature: float) -> Softened:
    """logits (N, K) and true classes (N,) at a temperature > 0: softmax(logits / T) and what it says about classes.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    if not 0 < temperature < math.inf:
        raise ModelOptError(f"temperature={temperature} is not allowed; choose a finite number above 0, such as 4")
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ModelOptError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (N, K) and (N,)")
    z = (logits.t() / temperature).contiguous()  # (K, N): classes first: sums over them are fast
    z -= z.amax(dim=0)
    p = z.exp()
    total = p.sum(dim=0)
    p /= total
    doubt = total.log_().mean() - torch.dot(p.flatten(), nats.possible(z).flatten()) / len(labels)
    return Softened(temperature, p.t(), _alike(p, labels), float(doubt) / math.log(2))


def _alike(p: Tensor, labels: Tensor) -> Tensor:
    """(K, K): p (K, N) summed over the examples of each class, without the class itself, scaled to sum 1."""
    k = len(p)
    summed = torch.zeros(k, k, dtype=p.dtype).index_add_(1, labels, p).t().fill_diagonal_(0)
    total = summed.sum(dim=1, keepdim=True)
    return torch.where(total > 0, summed / total.clamp(min=torch.finfo(p.dtype).tiny), 0.0)


def telling(logits: Tensor, n: int, labels: Tensor, of_class: int | None = None) -> Tensor:
    """Indices of at most n examples, of one class or of any, that show what softening does: the least sure, some sure.

    logits (N, K), labels (N,). They are spread over the ranks of confidence, cubed: the least sure first.
    """
    candidates = torch.arange(len(logits)) if of_class is None else (labels == of_class).nonzero().flatten()
    if not len(candidates):
        return candidates
    order = candidates[log_softmax(logits[candidates], 1.0).amax(dim=1).argsort(stable=True)]
    at = (torch.linspace(0, 1, min(n, len(order))) ** 3 * (len(order) - 1)).round().long()
    return order[at.unique()]
