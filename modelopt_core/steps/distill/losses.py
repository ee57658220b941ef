"""Losses: what draws a student to its teacher. Each is a pure function from `LossContext` to one number per batch.

Declared: needs (fields of LossContext beside both models' logits); projects: the student's features come through a
linear map to the teacher's channels, learned along with the student; softens: the temperature means something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modelopt_core.machine.registry import Registry
from modelopt_core.tasks.nats import divergence

NOTHING = torch.empty(0)
OTHERS = 8.0  # dkd's weight of the classes that are not the label, against 1 for the label: the paper's on CIFAR-100


@dataclass(frozen=True, eq=False)
class LossContext:
    """What a loss may look at, about one batch of B examples and K classes.

    student, teacher: logits (B, K), gradients flow to the student's only; labels: (B,) true classes. The features are
    what one layer of each puts out, (B, C, …), at the same positions; after a projection the channels agree as well.
    Only what the loss declares under `needs` is filled in.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor = NOTHING
    student_features: Tensor = NOTHING
    teacher_features: Tensor = NOTHING
    temperature: float = 1.0


LOSSES: Registry[Callable[[LossContext], Tensor]] = Registry("loss")


@LOSSES.register("kl", needs=(), projects=False, softens=True)
def kl(context: LossContext) -> Tensor:
    """T² · KL(softmax(t / T) ‖ softmax(s / T)), mean over the batch: logits (B, K), (B, K) -> ().

    A high temperature shows which wrong answers the teacher finds likely. The gradient shrinks as 1 / T²; the factor
    keeps it at the size that it has beside the labels' loss. Infinite where the student rules out a class, −∞, that the
    teacher finds possible; what both rule out plays no part.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    t = context.temperature
    return t * t * divergence(log_softmax(context.teacher, t), log_softmax(context.student, t)).mean()


@LOSSES.register("mse_logits", needs=(), projects=False, softens=False)
def mse_logits(context: LossContext) -> Tensor:
    """Mean squared difference of the logits: (B, K), (B, K) -> (). The temperature plays no part.

    Up to a factor what `kl` becomes when T is large, for logits of mean zero. A class that the teacher rules out, −∞,
    is left out: no student gets there.

    Source: Ba and Caruana, Do Deep Nets Really Need to be Deep?, arXiv 1312.6184.
    """
    told = context.teacher > -torch.inf
    return torch.where(told, context.student - context.teacher, 0).square().sum() / told.sum()


@LOSSES.register("dkd", needs=("labels",), projects=False, softens=True)
def dkd(context: LossContext) -> Tensor:
    """T² · (KL of label against the rest + 8 · KL among the rest): logits (B, K), (B, K), labels (B,) -> (); K ≥ 2.

    `kl` weighs the second part by 1 − p, with p what the teacher gives the label: where it is sure, it says least about
    the other classes, though it knows most. Classes that are ruled out: as in `kl`.

    Source: Zhao et al., Decoupled Knowledge Distillation, arXiv 2203.08679.
    """
    t = context.temperature
    label = F.one_hot(context.labels, context.teacher.shape[1]).bool()
    both, rest = [], []
    for logits in (context.teacher, context.student):
        log_p, others = log_softmax(logits, t), logits[~label].view(len(logits), -1) / t  # (B, K), (B, K − 1)
        none = others.isneginf().all(dim=1, keepdim=True)  # the label is all there is: (B, 1)
        others = others.masked_fill(none, 0)
        log_rest = torch.logsumexp(others, dim=1) - torch.logsumexp(logits / t, dim=1)  # log(1 − p), and stable
        both.append(torch.stack([log_p[label], log_rest.masked_fill(none[:, 0], -torch.inf)], dim=1))  # (B, 2)
        rest.append(log_softmax(others, 1.0).masked_fill(none, -torch.inf))
    return t * t * (divergence(both[0], both[1]) + OTHERS * divergence(rest[0], rest[1])).mean()


@LOSSES.register("hint", needs=("student_features", "teacher_features"), projects=True, softens=False)
def hint(context: LossContext) -> Tensor:
    """Mean squared difference of a layer's features, the student's projected: (B, C, …), (B, C, …) -> ().

    The student learns to see, not only to answer, as its teacher does.

    Source: Romero et al., FitNets: Hints for Thin Deep Nets, arXiv 1412.6550.
    """
    return F.mse_loss(context.student_features, context.teacher_features)


@LOSSES.register("attention", needs=("student_features", "teacher_features"), projects=False, softens=False)
def attention(context: LossContext) -> Tensor:
    """‖a_s − a_t‖², mean over the batch, a: Σ_c f_c² over positions, of unit length: (B, C, …), (B, C', …) -> ().

    The student learns where the teacher looks; the channels need not agree. The squared distance lies in [0, 2].

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention, arXiv 1612.03928 (their distance, squared).
    """
    student, teacher = (
        F.normalize(features.square().sum(dim=1).reshape(len(features), -1), dim=1)  # (B, positions)
        for features in (context.student_features, context.teacher_features)
    )
    return (student - teacher).square().sum(dim=1).mean()


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / T) over the last axis."""
    return F.log_softmax(logits / temperature, dim=-1)
