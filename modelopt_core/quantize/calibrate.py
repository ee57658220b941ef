"""What each layer meets on training examples, before and after the layers in front of it were quantized.

A layer that is quantized later can make up for the errors of the earlier ones: it is first given the weights that, on
the inputs as they now are, come nearest to its old outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelopt_core import identity, turns
from modelopt_core.cache import STORE
from modelopt_core.calls import calls
from modelopt_core.channels import CONVOLUTIONS
from modelopt_core.composite import Composite
from modelopt_core.layers import WEIGHTED
from modelopt_core.workload import Workload

BATCH = 128
MOST_ROWS = 8192  # inputs of a linear layer, or patches of a convolution's, that are looked at
FEW = 32  # examples: of fewer no grid and no correlations are learned
DAMPING = 0.1  # of `compensated`, as a share of the mean square of an input


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer met. inputs: (N, …), all that reached it; mean: (out,), of its outputs."""

    inputs: Tensor
    mean: Tensor


def reached(model: nn.Module, workload: Workload, at: Tensor) -> dict[str, Tensor]:
    """{"": the training examples `at` (k,)}; of a composite that skips, for each member, what of them reaches it.

    Where that is less than FEW, it is what would if none stopped early. Which examples those are hangs on all weights,
    so whoever changes some looks at the same ones before and after.
    """
    device = next(model.parameters()).device
    return _reached(model, workload.train.take(at).to(device))


def _reached(model: nn.Module, inputs: Tensor, name: str = "") -> dict[str, Tensor]:
    """Prefix of the layers of a part -> its inputs (b, …)."""
    if not (isinstance(model, Composite) and model.skips):
        return {name: inputs}
    seen: list[list[Tensor]] = [[] for _ in model.members]

    def note(i: int) -> Callable[..., None]:
        return lambda _, args: seen[i].append(args[0].detach().clone())

    handles = [member.register_forward_pre_hook(note(i)) for i, member in enumerate(model.members)]
    try:
        with torch.no_grad():
            for some in inputs.split(BATCH):
                turns.pause()
                model(some)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, Tensor] = {}
    for i, (member, parts) in enumerate(zip(model.members, seen, strict=True)):
        met = torch.cat(parts) if parts else inputs[:0]
        met = met if len(met) >= min(FEW, len(inputs)) else model.taken(i, inputs)
        found |= _reached(member, met, f"{name}members.{i}.")
    return found


def gather(
    model: nn.Module, workload: Workload, parts: Mapping[str, Tensor], examples: int, seed: int
) -> Mapping[str, Seen]:
    """What every layer of the model meets on so many training examples, in the order of the forward pass; kept.

    parts: `reached` by these examples.
    """
    key = ("layer inputs", identity.key(model), workload.data_hash, examples, seed, identity.CODE_VERSION)
    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    return STORE.get(key, lambda: watch(identity.clone(model), workload, parts, names), _size_bytes)


def watch(model: nn.Module, workload: Workload, parts: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Seen]:
    """What the named layers meet when each part is given what has `reached` it, in the order of the forward pass."""
    wanted, found = set(names), {}
    for prefix, inputs in parts.items():
        layers = {name: model.get_submodule(name) for name in wanted if name.startswith(prefix)}
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for some in inputs.split(BATCH) if layers else ():
            turns.pause()
            for name, call in calls(model.get_submodule(prefix[:-1]), layers, workload, some):
                seen.setdefault(name, []).append((call.x, _by_channel(call.layer, call.y).mean(dim=0) * len(some)))
        for name, uses in seen.items():
            mean = torch.stack([y for _, y in uses]).sum(dim=0) / len(inputs)
            found[name] = Seen(torch.cat([x for x, _ in uses]), mean)
    return found


def rows(layer: nn.Module, inputs: Tensor, seed: int) -> Tensor:
    """(N, …) inputs of a layer -> (groups, M, n), what its weights (out, n) are multiplied with; M ≤ 8,192 are drawn.

    groups: of a convolution, one for each group of its channels; else 1.
    """
    if not isinstance(layer, CONVOLUTIONS):
        flat = inputs.flatten(0, -2)
        return flat[_draw(len(flat), seed)][None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (k, stride, apart) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2):
        x = x.unfold(axis, apart * (k - 1) + 1, stride)[..., ::apart]
    spots = (x.shape[0], *x.shape[2 : 2 + len(layer.kernel_size)])  # (N, *positions)
    at = torch.unravel_index(_draw(math.prod(spots), seed).to(x.device), spots)
    patches = x.movedim(1, len(spots))[at]  # (M, channels, *kernel)
    return patches.reshape(len(patches), layer.groups, -1).transpose(0, 1)


def compensated(weight: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """The weight (R, …) whose products with the inputs `now` come nearest to those of `weight` with those `before`.

    before, now: (groups, M, n). W' = W + W (X − X̂)ᵀX̂ (X̂ᵀX̂ + λI)⁻¹: ridge regression towards the old weights.

    Source: Li et al., GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration, arXiv 2504.02692.
    """
    if torch.equal(before, now):
        return weight
    parts = weight.flatten(1).view(len(now), -1, now.shape[2])  # (groups, R / groups, n)
    square = now.mT @ now / now.shape[1]  # (groups, n, n)
    least = torch.finfo(square.dtype).eps
    power = square.diagonal(dim1=1, dim2=2)
    power.add_(DAMPING * power.mean(dim=1, keepdim=True) + least)
    moved = parts @ ((before - now).mT @ now / now.shape[1])
    return (parts + torch.cholesky_solve(moved.mT, torch.linalg.cholesky(square)).mT).view_as(weight)


def _by_channel(layer: nn.Module, y: Tensor) -> Tensor:
    """Outputs (b, …) -> (b · positions, channels)."""
    return (y.movedim(1, -1) if isinstance(layer, CONVOLUTIONS) else y).flatten(0, -2)


def _draw(n: int, seed: int) -> Tensor:
    """(k,) of n rows, all or MOST_ROWS at random: regular steps would always meet the same places of an image."""
    if n <= MOST_ROWS:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:MOST_ROWS]


def _size_bytes(seen: Mapping[str, Seen]) -> int:
    return sum(s.inputs.numel() * s.inputs.element_size() for s in seen.values())
