"""Merges: pure functions that make one tensor of several, one call a tensor of the networks.

Each declares how many members it takes (arity: a number, or 0 for any), whether it needs the network that they were
fine-tuned from (needs_base), and whether members that are all the same come back unchanged (idempotent). A member of
weight 0 is as if absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.machine.registry import Registry

PARALLEL = 1e-4  # radians, below which an arc is a straight line


@dataclass(frozen=True, eq=False)
class MergeContext:
    """What a merge may look at. tensors: (M, *s); weights: (M,), they sum to 1; base: (*s), where it is needed.

    scale: how far to go from the base; density: share of the changes that is kept.
    """

    tensors: Tensor
    weights: Tensor
    base: Tensor | None = None
    scale: float = 1.0
    density: float = 0.2

    @property
    def changes(self) -> Tensor:
        """(M, *s): what fine-tuning changed."""
        return self.tensors if self.base is None else self.tensors - self.base

    def moved(self, change: Tensor) -> Tensor:
        """(*s) change -> (*s): the base, moved by it."""
        step = self.scale * change
        return step if self.base is None else self.base + step


MERGES: Registry[Callable[[MergeContext], Tensor]] = Registry("merge")


@MERGES.register("average", arity=0, needs_base=False, idempotent=True)
def average(c: MergeContext) -> Tensor:
    """Σ w t, weight by weight: tensors (M, *s), weights (M,) -> (*s).

    Source: Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time, arXiv 2203.05482.
    """
    return torch.tensordot(c.weights, c.tensors, dims=1)


@MERGES.register("slerp", arity=2, needs_base=False, idempotent=True)
def slerp(c: MergeContext) -> Tensor:
    """Along the arc between two tensors, as far as the second weighs: tensors (2, *s), weights (2,) -> (*s).

    Source: Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985.
    """
    first, second = c.tensors.reshape(2, -1)
    lengths = first.norm() * second.norm()
    angle = torch.arccos((first @ second / lengths).clamp(-1, 1)) if lengths > 0 else lengths
    if angle < PARALLEL or angle > torch.pi - PARALLEL:  # the arc is a line, or there is no one arc
        return average(c)
    near, far = torch.sin(c.weights * angle) / torch.sin(angle)
    return (near * first + far * second).view(c.tensors.shape[1:])


@MERGES.register("task_arithmetic", arity=0, needs_base=True, idempotent=False)
def task_arithmetic(c: MergeContext) -> Tensor:
    """base + scale · M Σ w (t − base), all changes added up: tensors (M, *s), weights (M,), base (*s) -> (*s).

    M counts the members that have a weight: equal weights add every change once, a larger one counts for more.

    Source: Ilharco et al., Editing Models with Task Arithmetic, arXiv 2212.04089.
    """
    return c.moved((c.weights > 0).sum() * torch.tensordot(c.weights, c.changes, dims=1))


@MERGES.register("ties", arity=0, needs_base=True, idempotent=False)
def ties(c: MergeContext) -> Tensor:
    """Keep each member's largest changes, elect a sign per weight, average those that agree, add it to the base:
    tensors (M, *s), weights (M,), base (*s) -> (*s). density: the share of changes that is kept.

    A weight counts in the vote on the sign and in the average, which is over the weights of those that agree.

    Source: Yadav et al., TIES-Merging: Resolving Interference When Merging Models, arXiv 2306.01708.
    """
    changes = c.changes.reshape(len(c.weights), -1)  # (M, n)
    kept = max(1, round(c.density * changes.shape[1]))
    least = changes.abs().topk(kept, dim=1).values[:, -1:]
    trimmed = torch.where(changes.abs() >= least, changes, 0) * c.weights[:, None]
    agree = (trimmed * trimmed.sum(dim=0).sign()) > 0  # (M, n)
    shares = (agree * c.weights[:, None]).sum(dim=0)
    merged = (trimmed * agree).sum(dim=0) / torch.where(shares > 0, shares, 1)
    return c.moved(merged.view(c.tensors.shape[1:]))
