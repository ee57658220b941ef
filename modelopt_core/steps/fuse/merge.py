"""Melting: the weights of several networks of one architecture become the weights of one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.registry import Entry
from modelopt_core.models import identity
from modelopt_core.models.composite import shares
from modelopt_core.steps.fuse.align import align
from modelopt_core.steps.fuse.merges import MERGES, MergeContext
from modelopt_core.training.loop import evaluate
from modelopt_core.training.norms import reestimate_norms
from modelopt_core.workloads.workload import Workload


def merged(
    models: Sequence[nn.Module],
    weights: Sequence[float],
    merge: Entry[Callable[[MergeContext], Tensor]],
    base: nn.Module | None = None,
    scale: float = 1.0,
    density: float = 0.2,
) -> nn.Module:
    """A copy of the first model that has a weight, its floating tensors merged; weights are scaled to sum to 1.

    Without a base the only one that has a weight stays what it is.
    """
    asked = [(model, weight) for model, weight in zip(models, weights, strict=True) if weight > 0]
    models, weights = [model for model, _ in asked], [weight for _, weight in asked]
    whole = copy.deepcopy(models[0]).eval()
    if base is None and len(models) == 1:
        return whole
    states = [model.state_dict() for model in models]
    given, origin = shares(weights).float(), base.state_dict() if base else {}
    state: dict[str, Tensor] = {}
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            stacked = torch.stack([other[name] for other in states])
            state[name] = merge(MergeContext(stacked, given, origin.get(name), scale, density))
    whole.load_state_dict(state, strict=False)
    return whole


def soup(members: Sequence[nn.Module], workload: Workload, norms: bool = True) -> tuple[float, ...]:
    """(M,) of 1 and 0: the best on val, and every other that does not lower the val score of the average.

    norms: re-estimate batch norms before an average is judged.
    Source: Wortsman et al., Model soups, arXiv 2203.05482, recipe 1.
    """
    scores = [evaluate(model, workload, workload.val)[0] for model in members]
    ranked = sorted(range(len(members)), key=lambda at: -scores[at])
    chosen, score = ranked[:1], scores[ranked[0]]
    for at in ranked[1:]:
        tried = merged([members[i] for i in (*chosen, at)], (1.0,) * (len(chosen) + 1), MERGES["average"])
        tried = reestimate_norms(tried, workload) if norms else tried
        if (found := evaluate(tried, workload, workload.val)[0]) >= score:
            chosen, score = [*chosen, at], found
    return tuple(float(at in chosen) for at in range(len(members)))


def aligned(model: nn.Module, like: nn.Module, workload: Workload) -> nn.Module:
    """`align`, computed once for these two networks; treat the result as read-only."""
    key = ("aligned", identity.key(model), identity.key(like))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return STORE.get(key, lambda: align(model, like, workload.example), lambda _: size)


def alike(models: Sequence[nn.Module]) -> list[nn.Module]:
    """The models, if they are two or more of one architecture; else what is in the way."""
    if len(models) < 2:
        raise ModelOptError(f"Fuse needs at least 2 models, the pool has {len(models)}; add another to the pool")
    first = models[0].state_dict()
    for at, model in enumerate(models[1:], start=2):
        state = model.state_dict()
        for name in [*first, *(name for name in state if name not in first)]:
            shapes = [tuple(s[name].shape) if name in s else None for s in (first, state)]
            if shapes[0] != shapes[1]:
                told = " and ".join(
                    f"{shape if shape is not None else 'absent'} in model {i}"
                    for shape, i in zip(shapes, (1, at), strict=True)
                )
                raise ModelOptError(
                    f"Fuse merges the weights of one architecture: {name} is {told}; fuse outputs or features instead"
                )
    return list(models)
