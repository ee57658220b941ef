"""Which channels are coupled, and cutting them out.

A channel can only go where everything that touches it lets it go: the layer that makes it, the normalisation over it,
the layers that read it, and every other layer whose output is added to it. `groups` walks the traced graph (graph/) and
joins what must go together; `narrow` cuts a copy. What the walk does not know, it leaves alone and says why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError, plain
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity, weight_grid
from modelopt_core.models.spec import spec_of
from modelopt_core.structure.attention import FewerHeads
from modelopt_core.structure.graph import Group, Walk

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ROWS = (
    "weight", "bias", "running_mean", "running_var", "weight_scale", "weight_zero_point",
    "in_proj_weight", "in_proj_bias",
)  # fmt: skip


def groups(model: nn.Module, example: Tensor) -> list[Group]:
    """The groups of coupled channels, in the order of the forward pass. example: (1, *shape).

    Walked once for each model: a slider's every move asks for them again.
    """
    key = ("groups", identity.key(model), tuple(example.shape), str(example.dtype))
    return list(STORE.get(key, lambda: Walk(model, example).run(), _size_bytes))


def _size_bytes(found: Iterable[Group]) -> int:
    """What keeping the groups costs: the places of their channels, and some hundred bytes each."""
    return sum(500 + sum(200 + member.places.nbytes for member in group.members) for group in found)


def weights(model: nn.Module, group: Group, roles: Collection[str] = ("out",)) -> Tensor:
    """(C, n): for each channel of the group, its weights in all layers that have one of these roles for it.

    roles: out (the layer makes it), norm (it passes through: a norm's γ, a depthwise kernel), in (the layer reads it).
    """
    return rows(model, group, lambda layer: weight_of(model.get_submodule(layer)), roles)


def rows(
    model: nn.Module, group: Group, of: Callable[[str], Tensor | None], roles: Collection[str] = ("out",)
) -> Tensor:
    """(C, n): `weights` for any tensors that lie like them. of: layer's name -> tensor shaped like its weight."""
    found = []
    for member in group.members:
        tensor = of(member.layer) if member.role in roles else None
        if tensor is not None:
            columns = member.role == "in" or isinstance(model.get_submodule(member.layer), nn.Embedding)
            lines = tensor.transpose(0, 1) if columns else tensor
            found.append(lines.reshape(len(lines), -1)[member.places].flatten(1))
    return torch.cat(found, dim=1)


def weight_of(layer: nn.Module) -> Tensor | None:
    """The weight that makes, scales or reads channels; of attention, the rows of queries, keys and values."""
    weight = getattr(layer, "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight", None)
    return None if weight is None else weight.detach()


def narrow(model: nn.Module, found: list[Group], keep: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model with only the kept channels. keep: group name -> sorted indices (k,), k ≥ 1."""
    thin = copy.deepcopy(model)
    for (layer, role, _), stays in _stays(found, keep).items():
        _slice(thin.get_submodule(layer), role, stays.nonzero().flatten())
    return _note(thin, found, keep)


def narrowed(found: list[Group], keep: Mapping[str, Tensor]) -> list[Group]:
    """The same groups, under the same names, as they lie in what `narrow` returns."""
    moves = {side: (stays.cumsum(0) - 1, int(stays.sum())) for side, stays in _stays(found, keep).items()}
    groups = []
    for group in found:
        kept, members = keep.get(group.name, torch.arange(group.size)), []
        for member in group.members:
            same = (torch.arange(member.length), member.length)
            to, length = moves.get((member.layer, member.role, member.length), same)
            members.append(replace(member, places=to[member.places[kept]], length=length))
        groups.append(replace(group, size=len(kept), members=members))
    return groups


def _stays(found: list[Group], keep: Mapping[str, Tensor]) -> dict[tuple[str, str, int], Tensor]:
    """(layer, role, length) -> (length,) bool: which rows or columns stay, of every side that loses some."""
    stays: dict[tuple[str, str, int], Tensor] = {}
    for group in found:
        if group.name not in keep or len(keep[group.name]) == group.size:
            continue
        if group.frozen:
            raise ModelOptError(f"channels of {group.name} can't be cut: {group.frozen}; leave the layer out")
        goes = torch.ones(group.size, dtype=torch.bool).index_fill(0, keep[group.name], False)
        for member in group.members:  # a layer may read several groups: all at once
            side = (member.layer, member.role, member.length)
            stays.setdefault(side, torch.ones(member.length, dtype=torch.bool))[member.places[goes].flatten()] = False
    return stays


def cut(
    model: nn.Module,
    example: Tensor,
    ratio: float,
    score: Callable[[Tensor], Tensor] = lambda rows: rows.abs().sum(dim=1),
) -> nn.Module:
    """A copy of any traceable module without the `ratio` lowest-scoring channels of every group; at least one stays.

    What can't be followed stays as it is: `groups` says which layers and why. So do layers that only training runs.

    example: one input (1, *shape); score: (C, n) weights of the layers that make a channel -> (C,) importance.
    """
    if not 0 <= ratio < 1:
        raise ModelOptError(f"ratio={ratio} is not allowed; ratio must be a number ≥ 0 and < 1")
    found = groups(model, example)
    keep = {g.name: strongest(score(weights(model, g)), ratio) for g in found if not g.frozen}
    thin = narrow(model, found, keep).eval()
    try:
        with torch.no_grad():
            thin(example)
    except (AssertionError, RuntimeError, ValueError) as error:
        name, why = type(model).__name__, str(error).split("\n", 1)[0][:120]
        raise ModelOptError(f"{name} refuses fewer channels ({why}); prune its parts before building {name}") from error
    return thin


def cut_to(model: nn.Module, example: Tensor, kept: Mapping[str, int]) -> nn.Module:
    """A copy with as many channels per group as `kept` says: a cut model's shape, before its weights are loaded."""
    found = {g.name: g for g in groups(model, example)}
    for name, left in kept.items():
        if name not in found or type(left) is not int or not 1 <= left <= found[name].size:
            raise ModelOptError(
                f"{plain(left)} channels of {plain(name)!r} can't be kept; groups are {', '.join(found)}"
            )
    return narrow(model, list(found.values()), {name: torch.arange(left) for name, left in kept.items()})


def strongest(scores: Tensor, ratio: float) -> Tensor:
    """Sorted indices of the channels that stay when `ratio` of (C,) scores go; at least one."""
    removed = min(round(ratio * len(scores)), len(scores) - 1)
    return torch.topk(scores, len(scores) - removed).indices.sort().values


def _slice(layer: nn.Module, role: str, index: Tensor) -> None:
    if layer.__dict__.get("weight_group") and (role == "in" or isinstance(layer, nn.Embedding)):
        weight_grid.detach(layer)  # its groups run along the inputs, some of which go
    if role == "in" or isinstance(layer, nn.Embedding):  # an embedding's channels are its columns
        layer.weight = _cut(layer.get_parameter("weight"), 1, index)
    else:
        for name in ROWS:
            tensor = getattr(layer, name, None)
            if tensor is not None and not (name.startswith("weight_") and len(tensor) == 1):
                setattr(layer, name, _cut(tensor, 0, index))
    _resize(layer, role, len(index))


def _cut(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    piece = tensor.detach().index_select(dim, index.to(tensor.device)).contiguous()
    return nn.Parameter(piece, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else piece


def _resize(layer: Any, role: str, size: int) -> None:
    """Write the new number of rows or columns into the layer's own attributes."""
    if isinstance(layer, nn.Linear):
        setattr(layer, "in_features" if role == "in" else "out_features", size)
    elif isinstance(layer, CONVOLUTIONS) and role == "in":
        layer.in_channels = size * layer.groups
    elif isinstance(layer, CONVOLUTIONS) and role == "out":
        layer.out_channels = size
    elif isinstance(layer, CONVOLUTIONS):  # whole groups went; depthwise: one channel each
        layer.groups = layer.groups * size // layer.out_channels
        layer.in_channels, layer.out_channels = layer.weight.shape[1] * layer.groups, size
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = size
    elif isinstance(layer, nn.GroupNorm):
        layer.num_groups, layer.num_channels = layer.num_groups * size // layer.num_channels, size
    elif isinstance(layer, nn.MultiheadAttention):  # rows of queries, keys and values
        layer.num_heads, layer.__class__ = size // (3 * layer.head_dim), FewerHeads
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = size
    elif hasattr(layer, "num_features"):  # batch and instance norm
        layer.num_features = size


def _note(thin: nn.Module, found: list[Group], keep: Mapping[str, Tensor]) -> nn.Module:
    """Write the new channel counts into the model's spec, where it has one."""

    spec = spec_of(thin)
    if spec is not None:
        counts = {**dict(spec.kept), **{g.name: len(keep[g.name]) for g in found if g.name in keep}}
        full = {g.name: g.size for g in found if g.name not in dict(spec.kept)}
        left = {name: n for name, n in counts.items() if full.get(name) != n}
        thin.__dict__["spec"] = replace(spec, kept=tuple(sorted(left.items())))
    return thin
