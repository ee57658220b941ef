"""Multinomial logistic regression: linear heads without a training loop, because the problem is convex.

A head is pulled towards one that is given instead of towards zero, and some directions may be free of the pull: however
strong it is, what comes out is sensible. Heads for all folds are found at once, as one problem whose parts do not
touch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.structure.build import Undrawn

MOST_WEIGHTS = 2**22  # of a head: what a file may ask for
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)  # of the pull, strong to weak
PRECISION, MOST_ITERATIONS, MEMORY = 1e-5, 300, 20  # of the loss, relative
LOOSE = 1e-3  # share of the pull along free directions: examples that are easily told apart would have no end there
SURE = 1e-5  # variance of an answer below which an example tells nothing about the curvature


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A head (P + 1, K), its last row the bias, fitted on all examples; what heads of the other folds say of each.

    held_out: (n, K) logits; strength: the one that the folds chose, inf where `start` itself lost least;
    tried: (strength, log loss of the held-out examples in nats), in the order in which they were tried.
    """

    head: Tensor
    held_out: Tensor
    strength: float
    tried: tuple[tuple[float, float], ...]


def cross_fitted(
    features: Tensor,
    targets: Tensor,
    start: Tensor,
    folds: int,
    generator: torch.Generator,
    strengths: Sequence[float] = (),
    free: Tensor | None = None,
    clusters: Tensor | None = None,
) -> CrossFitted:
    """Heads for every fold and for all examples, at the strength with the least held-out log loss.

    features: (n, P); targets: (n,) in 0 … K − 1; start: (P + 1, K); free: see `fit`; clusters: see `folded`. Without
    strengths those of STRENGTHS are tried from strong to weak, from `start` itself on, until the loss rises; one that
    is given is taken, of several the best.
    Source: Stone, Cross-validatory choice and assessment of statistical predictions, JRSS B 36, 1974.
    """
    n = len(targets)
    x = torch.cat([features, features.new_ones(n, 1)], dim=1)
    fold = folded(n, folds, generator, clusters)
    kept = torch.cat([fold != torch.arange(folds)[:, None], torch.ones(1, n, dtype=torch.bool)])  # (F + 1, n)
    everyone = torch.arange(n)

    def held(heads: Tensor) -> Tensor:
        return torch.stack([x @ head for head in heads[:-1]])[fold, everyone]

    heads = start.expand(folds + 1, *start.shape)
    best = CrossFitted(start, x @ start, math.inf, ())
    least = math.inf if strengths else _loss(best.held_out, targets)
    tried = [] if strengths else [(math.inf, least)]
    for strength in sorted(strengths, reverse=True) or STRENGTHS:
        heads = fit(x, targets, kept, start, strength, heads, free)
        said = held(heads)
        tried.append((strength, loss := _loss(said, targets)))
        if loss < least:
            least, best = loss, CrossFitted(heads[-1], said, strength, ())
        elif not strengths:
            break
    return CrossFitted(best.head, best.held_out, best.strength, tuple(tried))


def folded(n: int, folds: int, generator: torch.Generator, clusters: Tensor | None = None) -> Tensor:
    """(n,) the fold of each example, 0 … folds − 1, drawn. clusters: (n,) numbers; none is torn apart.

    An example whose sibling is in another fold is no new example: heads that learn siblings by heart would look best.
    Source: Roberts et al., Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
    structure, Ecography 40, 2017.
    """
    numbers = torch.arange(n) if clusters is None else clusters.unique(return_inverse=True)[1]
    found = int(numbers.max()) + 1 if n else 0
    if found < folds:
        what = "examples" if clusters is None else "clusters of examples"
        raise ModelOptError(f"{found} {what} make no {folds} folds; choose at most {found}")
    return (torch.randperm(found, generator=generator) % folds)[numbers]


def fit(
    x: Tensor,
    targets: Tensor,
    kept: Tensor,
    start: Tensor,
    strength: float,
    guess: Tensor,
    free: Tensor | None = None,
) -> Tensor:
    """Heads (F, P, K), each with the least mean log loss of its examples + ½ strength ‖head − start‖².

    x: (n, P), with a column of ones where a bias is wanted; targets: (n,); kept: (F, n) bool, the examples of each;
    start: (P, K); guess: (F, P, K), where to begin; free: (D, P, K), directions at right angles along which a head goes
    where it will. L-BFGS, on axes along which the curvature is about the same.
    Source: Liu and Nocedal, On the limited memory BFGS method for large scale optimization, Math. Programming 45, 1989.
    """
    from scipy.optimize import minimize

    if not (math.isfinite(strength) and strength > 0):
        raise ModelOptError(f"a strength of {strength:g} is not allowed; strengths are numbers above 0")
    heads, (p, k) = len(kept), start.shape
    wide, narrow = _axes(x, x @ start, strength)
    free = start.new_zeros(0, p, k) if free is None else free / free.flatten(1).norm(dim=1)[:, None, None]
    loss = _objective(x, targets, kept, start, strength, wide, free)
    begin = torch.einsum("pq,fqk->pkf", narrow, guess - start)
    found = minimize(
        loss,
        begin.reshape(-1).double().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": PRECISION if x.dtype == torch.float32 else PRECISION**2, "gtol": 1e-9,
                 "maxiter": MOST_ITERATIONS, "maxcor": MEMORY},
    ).x  # fmt: skip
    moved = wide @ torch.from_numpy(found).to(x.dtype).view(p, k * heads)
    return start + moved.view(p, k, heads).permute(2, 0, 1)


def head(inputs: int, outputs: int) -> nn.Linear:
    """A layer of zeros, to be solved for: nothing is drawn. ModelOptError for sizes that no file may ask for."""
    if type(outputs) is not int or outputs < 1 or inputs * outputs > MOST_WEIGHTS:
        raise ModelOptError(f"a head of {inputs} × {outputs} is not allowed; at most {MOST_WEIGHTS:,} weights are")
    with Undrawn():
        layer = nn.Linear(inputs, outputs)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def take(layer: nn.Linear, found: Tensor) -> None:
    """Put a fitted head (P + 1, K), its last row the bias, into the layer."""
    layer.weight.copy_(found[:-1].t())
    layer.bias.copy_(found[-1])


def _objective(
    x: Tensor, targets: Tensor, kept: Tensor, start: Tensor, strength: float, wide: Tensor, free: Tensor
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """The sum over all heads of what `fit` minimises, and its gradient, in the axes `wide`."""
    heads, (p, k) = len(kept), start.shape
    shares = (kept / kept.sum(dim=1, keepdim=True)).to(x.dtype)  # (F, n)
    said = (x @ start).t()[:, None]  # (K, 1, n)
    truth = targets.expand(1, heads, -1)
    columns = x.t().contiguous()

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        cores.pause()
        change = wide @ torch.from_numpy(at).to(x.dtype).view(p, k * heads)  # (P, K F)
        z = (change.t() @ columns).view(k, heads, -1) + said  # (K, F, n): classes first, so that sums run along rows
        z -= z.amax(dim=0)
        right = z.gather(0, truth)[0]
        z.exp_()
        total = z.sum(dim=0)
        along = torch.einsum("dpk,pkf->df", free, change.view(p, k, heads))
        pulled = change - (1 - LOOSE) * torch.einsum("dpk,df->pkf", free, along).reshape(p, k * heads)
        value = float(((total.log() - right) * shares).sum()) + strength / 2 * float((pulled * change).sum())
        z *= shares / total
        z.scatter_add_(0, truth, -shares[None])
        slope = wide.t() @ ((z.view(k * heads, -1) @ x).t() + strength * pulled)
        return value, slope.reshape(-1).double().numpy()

    return loss


def _axes(x: Tensor, logits: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """(P, P) twice, inverse to each other: axes along which the mean curvature at `start`, all classes alike, is one.

    With the curvature's Cholesky factor L they are L⁻ᵀ and Lᵀ: a square root like any other, and the quickest.
    """
    p = torch.softmax(logits, dim=1)
    spread = (p * (1 - p)).mean(dim=1)
    unsure = spread > SURE
    weighed = x[unsure] * spread[unsure, None].sqrt()
    one = torch.eye(x.shape[1], dtype=torch.double)
    root = torch.linalg.cholesky((weighed.t() @ weighed / len(x)).double() + strength * one).t()
    return torch.linalg.solve_triangular(root, one, upper=True).to(x.dtype), root.to(x.dtype)


def _loss(logits: Tensor, targets: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, targets))
