"""Criteria: what counts as important. Each is a pure function from `Stats` to scores; the lowest scores go.

A criterion that scores every weight, (R, n) -> (R, n), serves every granularity: a block's score is the mean of its
weights' scores, a channel's the sum of its row's. One that scores rows, (R, n) -> (R,), is for channels only.

A channel's row holds all weights that go with it, one rule for all criteria: those into it, in every layer that makes
it; those that it passes through, the γ of a norm or a depthwise kernel; and those out of it, in every layer that reads
it (Fang et al., DepGraph, arXiv 2301.12900, section 3.3).

Declared: needs (fields of Stats), equivariant (permuted rows, permuted scores), granularity (what it can be used for);
through: False leaves out what a channel passes through; comparable: scores of different layers compare, so that
channels of all layers are ranked as they are and not first divided by their layer's mean. Undivided, even slopes of one
loss (`taylor`, `fisher`) take whole layers away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.machine.registry import Registry

NOTHING = torch.empty(0)
EVERY = ("weight", "n:m", "block", "channel")  # granularities


@dataclass(frozen=True, eq=False)
class Stats:
    """What a criterion may look at, about one layer, or about one group of coupled channels.

    weight, and what is gathered about its connections, (R, n): one row per output or, for channels, per channel. x is
    what a connection reads, y the layer's output that it adds to (before the nonlinearity), g the gradient of an
    example's loss; means are over the T examples, and x and y are first summed over an example's positions. Only what
    the criterion declares under `needs` is filled in.
    """

    weight: Tensor
    generator: torch.Generator
    channels: bool = False  # rows are channels that go or stay as a whole
    grad: Tensor = NOTHING  # (R, n): mean of g
    square: Tensor = NOTHING  # (R, n): mean of g²
    pre: Tensor = NOTHING  # (R, n): mean of x²
    joint: Tensor = NOTHING  # (R, n): mean of x · y
    bn_scale: Tensor = NOTHING  # (R,): Σ |γ| of the batch norms over a channel


CRITERIA: Registry[Callable[[Stats], Tensor]] = Registry("criterion")


@CRITERIA.register("l1", needs=(), equivariant=True, granularity=EVERY)
def l1(stats: Stats) -> Tensor:
    """|w|: magnitude. weight (R, n) -> scores (R, n); a channel's score is the sum of its row.

    Small weights change the output least when inputs are of like size.

    Source: Han et al., Learning both weights and connections, arXiv 1506.02626; for channels: Li et al., Pruning
    filters for efficient ConvNets, arXiv 1608.08710.
    """
    return stats.weight.abs()


@CRITERIA.register("l2", needs=(), equivariant=True, granularity=EVERY)
def l2(stats: Stats) -> Tensor:
    """w²: energy. weight (R, n) -> scores (R, n); a channel's score is the squared norm of its row.

    Single weights are ordered as by l1; a channel with one large weight is worth more than one with many small ones.

    Source: He et al., Soft filter pruning for accelerating deep convolutional neural networks, arXiv 1808.06866.
    """
    return stats.weight.square()


@CRITERIA.register("random", needs=(), equivariant=False, granularity=EVERY)
def random(stats: Stats) -> Tensor:
    """u ~ U(0, 1): chance. weight (R, n) -> scores (R, n). The yardstick that every other criterion has to beat.

    Source: Mittal et al., Studying the plasticity in deep networks using random pruning, arXiv 1812.10240.
    """
    return torch.rand(stats.weight.shape, generator=stats.generator)


@CRITERIA.register("hebbian", needs=("pre", "joint"), equivariant=True, granularity=EVERY)
def hebbian(stats: Stats) -> Tensor:
    """|Σ_t η·x·y / Σ_t x²|, η = 1: do both ends act together? pre, joint (R, n) -> scores (R, n).

    Hebb's rule Δw = η·x·y, accumulated over T examples and divided by the activity of the sender x. A connection whose
    two ends do not act together is unimportant. The weight itself is not looked at: the score is the slope that
    predicts y, the layer's output before the nonlinearity, from this x alone; where no two inputs act together, and
    without a bias, that is |w|. y is taken before the nonlinearity because every layer has that one, and a unit that is
    held down (y < 0) acts with its input too. η cancels from the order.

    Measured (`python -m benchmarks.prune`: three small networks, five seeds, 28 cells): better than l1 in none and
    worse in 16; better than chance in 5 and worse in 3. It is far behind l1 for single weights and nearer to it for
    whole channels. The reason is the division by Σ x²: inputs that are seldom active score high, the busy ones go.

    Source: Hebb, The Organization of Behavior, 1949; the normalised sum is the article's that this project follows.
    """
    return (stats.joint / positive(stats.pre)).abs()


@CRITERIA.register("taylor", needs=("grad",), equivariant=True, granularity=EVERY, through=False)
def taylor(stats: Stats) -> Tensor:
    """|w · g|: first-order change of the loss without w. weight, grad (R, n) -> scores (R, n).

    g is the gradient of the mean loss. A channel's score is the sum of the sizes: the plain sum of w · g vanishes for
    every filter before a batch norm, because the norm undoes its scale. Once training has converged, g is all but zero
    and tells little; hundreds of them average to something, a norm's single γ · g does not, and is left out.

    Source: Molchanov et al., Importance estimation for neural network pruning, arXiv 1906.10771; for single weights:
    Lee et al., SNIP, arXiv 1810.02340.
    """
    return (stats.weight * stats.grad).abs()


@CRITERIA.register("fisher", needs=("square",), equivariant=True, granularity=EVERY)
def fisher(stats: Stats) -> Tensor:
    """½ · w² · E[g²]: second-order change of the loss without w. weight, square (R, n) -> scores (R, n).

    The Hessian's diagonal, where training has converged, is about the mean square of the examples' gradients (the
    empirical Fisher information); what weights do together is left out, but for the γ of a norm, which moves the whole
    channel.

    Source: LeCun et al., Optimal brain damage, NIPS 1989; Theis et al., Faster gaze prediction with dense networks and
    Fisher pruning, arXiv 1801.05787.
    """
    return stats.weight.square() * stats.square / 2


@CRITERIA.register("activation", needs=("pre",), equivariant=True, granularity=EVERY)
def activation(stats: Stats) -> Tensor:
    """|w| · ‖x‖: magnitude times the input's norm over the examples. weight, pre (R, n) -> scores (R, n).

    A large weight on an input that is always near zero changes nothing. The norm is over examples and positions.

    Source: Sun et al., A simple and effective pruning approach for large language models (Wanda), arXiv 2306.11695.
    """
    return stats.weight.abs() * stats.pre.sqrt()


@CRITERIA.register("fpgm", needs=(), equivariant=True, granularity=("channel",))
def fpgm(stats: Stats) -> Tensor:
    """Σ_k ‖w_i − w_k‖₂: distance from all other filters. weight (R, n) -> scores (R,).

    The filter nearest to the geometric median of its layer is the one that the others can replace best.

    Source: He et al., Filter pruning via geometric median for deep convolutional neural networks, arXiv 1811.00250.
    """
    # Distances by difference: the faster formula by products is not exactly symmetric.
    return torch.cdist(stats.weight, stats.weight, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)


@CRITERIA.register("bn_scale", needs=("bn_scale",), equivariant=True, granularity=("channel",))
def bn_scale(stats: Stats) -> Tensor:
    """|γ|: the factor that batch norm gives a channel. bn_scale (R,) -> scores (R,).

    A channel that is scaled to nearly nothing adds nearly nothing. Channels without batch norm are left alone.

    Source: Liu et al., Learning efficient convolutional networks through network slimming, arXiv 1708.06519.
    """
    return stats.bn_scale


@CRITERIA.register("lamp", needs=(), equivariant=True, granularity=EVERY, comparable=True)
def lamp(stats: Stats) -> Tensor:
    """w² / Σ_{|v| ≥ |w|} v²: share of what is left in the layer. weight (R, n) -> scores (R, n); channels -> (R,).

    Scores of different layers compare, so that scope global needs no ratio per layer; within a layer the order is that
    of l1. For channels w² is the squared norm of a row.

    Source: Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, arXiv 2010.07611.
    """
    squares = stats.weight.square().sum(dim=1) if stats.channels else stats.weight.square()
    flat, order = squares.flatten().double().sort(descending=True, stable=True)
    shares = flat / positive(flat.cumsum(0))
    return torch.empty_like(shares).index_copy_(0, order, shares).to(squares.dtype).view_as(squares)


def positive(divisor: Tensor) -> Tensor:
    """The divisor (any shape, ≥ 0), 1 where it is zero: what is divided is zero there as well."""
    return torch.where(divisor > 0, divisor, torch.ones_like(divisor))
