"""What criteria look at, gathered once per model from training examples.

Everything that is summed over connections is one operation, `correlate`: the gradient of Σ y ⊙ layer(x) with respect to
the layer's weight is Σ x_i·y_j for a linear layer, the same over all patches for a convolution, and over all tokens for
an embedding. No patch is ever copied out. What scales channels one by one is a depthwise layer of their own: the γ of
a norm reads the normalised channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from modelopt_core import channels, identity, turns
from modelopt_core.attention import open_heads
from modelopt_core.cache import STORE
from modelopt_core.calls import Call, calls, sample
from modelopt_core.channels import Group
from modelopt_core.errors import ModelOptError
from modelopt_core.layers import WEIGHTED
from modelopt_core.workload import Workload

EXAMPLES, BATCH = 1024, 128
SCALES = (_NormBase, nn.GroupNorm, nn.PReLU)  # y = w · x̂ + what does not depend on w, for every channel
WHOLE = (
    "out",
    "norm",
    "in",
)  # a channel is all that goes with it: what makes it, what it passes through, what reads it
ENDS = ("out", "in")


def correlate(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Σ_t x_i·y_j for every weight w_ji of the layer, over examples and positions; shaped like its weight."""
    with torch.enable_grad():
        return torch.autograd.grad(layer.forward(x), layer.get_parameter("weight"), y)[0]


def squared(call: Call) -> Tensor:
    """The input's squares; a token reads a one, whose square is one."""
    return call.x if isinstance(call.layer, nn.Embedding) else call.x.square()


def depthwise(call: Call) -> Call:
    """The use of a layer that scales channels (b, C, …), as that of a depthwise layer (b, C, positions) on its x̂."""
    x = _with_scale(call.layer, 1.0)(call.x) - _with_scale(call.layer, 0.0)(call.x)
    n = x.shape[1]
    like = nn.Conv1d(n, n, 1, groups=n, bias=False, device="meta")
    like.weight = nn.Parameter(call.layer.get_parameter("weight").detach().expand(n)[:, None, None])
    return Call(like, *(t.reshape(*x.shape[:2], -1) for t in (x, call.y, call.g)))


def _with_scale(layer: nn.Module, scale: float) -> Callable[[Tensor], Tensor]:
    """The layer, were its weight this number for all channels."""
    twin = copy.deepcopy(layer).requires_grad_(False)
    twin.get_parameter("weight").fill_(scale)
    return twin.forward


def pre(call: Call) -> Tensor:
    """Σ_t x_i², shaped like the weight."""
    return correlate(call.layer, squared(call), torch.ones_like(call.y))


def joint(call: Call) -> Tensor:
    """Σ_t x_i·y_j, shaped like the weight."""
    return correlate(call.layer, call.x, call.y)


def grad(call: Call) -> Tensor:
    """Σ_t g_ji, the examples' gradients, shaped like the weight."""
    return correlate(call.layer, call.x, call.g)


def square(call: Call) -> Tensor:
    """Σ_t g_ji², shaped like the weight. An example with one position has g_ji = x_i·g_j: no need to take it alone."""
    if isinstance(call.layer, nn.Linear) and call.x.dim() == 2:
        return correlate(call.layer, squared(call), call.g.square())
    total = torch.zeros_like(call.layer.get_parameter("weight"))
    for x, g in zip(call.x.split(1), call.g.split(1), strict=True):
        total += correlate(call.layer, x, g).square()
    return total


SUMS: Mapping[str, Callable[[Call], Tensor]] = {"pre": pre, "joint": joint, "grad": grad, "square": square}
Gathered = Mapping[str, Mapping[str, Tensor]]  # what -> layer -> mean, shaped like its weight


def gather(model: nn.Module, workload: Workload, needs: Iterable[str], seed: int = 0) -> Gathered:
    """Means over up to 1,024 training examples, once per model, data, needs and seed.

    needs: names out of pre, joint, grad, square; others are not gathered from data. seed: 0 takes examples that are
    evenly spaced, every other one draws as many at random. The model is left as it was.
    """
    asked = set(needs)
    wanted = tuple(need for need in SUMS if need in asked)
    if not wanted:
        return {}
    key = ("prune stats", identity.key(model), workload.data_hash, wanted, seed, identity.CODE_VERSION)
    at = sample(len(workload.train), EXAMPLES, seed)
    return STORE.get(key, lambda: _gather(identity.clone(model), workload, wanted, at), _size_bytes)


def _gather(model: nn.Module, workload: Workload, wanted: tuple[str, ...], at: Tensor) -> Gathered:
    """model: a private clone; at: (k,) the training examples to look at."""
    sums: dict[str, dict[str, Tensor]] = {need: {} for need in wanted}
    device = next(model.parameters()).device
    opened = open_heads(model)
    model.requires_grad_(True)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, WEIGHTED) or scales(layer)}
    for some in at.split(BATCH):
        turns.pause()
        inputs, targets = workload.train.take(some).to(device), workload.train.targets[some].to(device)
        for name, call in calls(model, layers, workload, inputs, targets, bool({"grad", "square"} & set(wanted))):
            call = depthwise(call) if scales(call.layer) else call
            for need in wanted:
                total = SUMS[need](call)
                sums[need][name] = sums[need][name] + total if name in sums[need] else total
    for found in sums.values():
        for name in opened:  # queries, keys and values are rows of one weight
            if all(f"{name}.{part}" in found for part in "qkv"):
                found[name] = torch.cat([found.pop(f"{name}.{part}") for part in "qkv"])
    return {need: {name: total / len(at) for name, total in found.items()} for need, found in sums.items()}


def scales(layer: nn.Module) -> bool:
    """Does it multiply channels by a number of their own?"""
    return isinstance(layer, SCALES) and channels.weight_of(layer) is not None


def _size_bytes(gathered: Gathered) -> int:
    return sum(t.numel() * t.element_size() for found in gathered.values() for t in found.values())


def of_layer(name: str, gathered: Gathered) -> dict[str, Tensor]:
    """What was gathered about one layer: name of the need -> (R, n), as its weight flattened."""
    return {need: _known(found, name).flatten(1) for need, found in gathered.items()}


def of_group(model: nn.Module, group: Group, gathered: Gathered, roles: Collection[str] = WHOLE) -> dict[str, Tensor]:
    """What was gathered about a group's channels: name of the need -> (C, n), as `channels.weights` has the weights."""

    def of(name: str, found: Mapping[str, Tensor]) -> Tensor | None:
        return None if channels.weight_of(model.get_submodule(name)) is None else _known(found, name)

    return {need: channels.rows(model, group, partial(of, found=found), roles) for need, found in gathered.items()}


def bn_scale(model: nn.Module, group: Group) -> Tensor | None:
    """(C,): Σ |γ| over the batch norms that carry the group's channels; None where there is none."""
    norms = [(m, model.get_submodule(m.layer)) for m in group.members if m.role == "norm"]
    scales = [n.weight.detach()[m.places].abs().sum(dim=1) for m, n in norms if isinstance(n, _BatchNorm) and n.affine]
    return torch.stack(scales).sum(dim=0) if scales else None


def _known(found: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in found:
        raise ModelOptError(
            f"no data reaches {name!r} as a layer of its own, and the criterion needs some; "
            "freeze the layer, or choose a criterion that looks at weights only, such as l1"
        )
    return found[name]
