"""Alignment: hidden units have no order of their own, so two networks that compute alike may differ by a permutation.

Averaging them unit by unit mixes units that have nothing in common. Permuting the second network's units so that its
weights match the first's best changes nothing that it computes, and lets the two be averaged.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from modelopt_core.structure import channels
from modelopt_core.structure.graph import Group

ROUNDS = 50  # passes over all groups; a handful is the rule


def align(model: nn.Module, like: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `model` with its hidden units in the order that matches those of `like` best; it computes the same.

    The groups of coupled channels are matched in turn, each by linear assignment on the products of their weights,
    until none moves. example: one input (1, *shape). Both are of one architecture.
    Source: Ainsworth, Hayase and Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries, arXiv
    2209.04836, algorithm 1.
    """
    from scipy.optimize import linear_sum_assignment

    moved = copy.deepcopy(model).eval()
    groups = [group for group in channels.groups(like, example) if not group.frozen]
    with torch.no_grad():
        for _ in range(ROUNDS):
            still = True
            for group in groups:
                first, second = (_described(one, group) for one in (like, moved))
                order = torch.from_numpy(linear_sum_assignment((first @ second.T).numpy(), maximize=True)[1])
                if not torch.equal(order, torch.arange(group.size)):
                    _permute(moved, group, order)
                    still = False
            if still:
                break
    return moved


def _described(model: nn.Module, group: Group) -> Tensor:
    """(C, n): for each channel, all weights that make it and that read it, and its biases."""
    weights = channels.weights(model, group, ("out", "in"))
    makers = [(model.get_submodule(member.layer), member.places) for member in group.members if member.role == "out"]
    biases = [
        bias.detach()[places].flatten(1)
        for layer, places in makers
        if isinstance(bias := getattr(layer, "bias", None), Tensor)  # an embedding has none
    ]
    return torch.cat([weights, *biases], dim=1).double()


def _permute(model: nn.Module, group: Group, order: Tensor) -> None:
    """Put channel order[i] in place i, in every layer that touches the group."""
    for member in group.members:
        layer, index = model.get_submodule(member.layer), torch.arange(member.length)
        index[member.places.flatten()] = member.places[order].flatten()
        if member.role == "in" or isinstance(layer, nn.Embedding):
            _reorder(layer, "weight", 1, index)
        else:
            for name in channels.ROWS:
                tensor = getattr(layer, name, None)
                if isinstance(tensor, Tensor) and len(tensor) == member.length:
                    _reorder(layer, name, 0, index)


def _reorder(layer: nn.Module, name: str, dim: int, index: Tensor) -> None:
    tensor = getattr(layer, name)
    tensor.copy_(tensor.index_select(dim, index))
