"""What makes a float network easier to quantize and leaves its answers as they are.

A batch norm multiplies every channel by a factor of its own: folded into the weights in front of it, it is quantized
with them. Between two layers with only ReLU and pooling in between, a channel's scale can be moved from one to the
other: equalised, no channel of a tensor is left with a few steps of a grid that another one needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modelopt_core.structure.channels import CONVOLUTIONS
from modelopt_core.structure.trace import trace

SWEEPS, CLOSE = 40, 1e-3  # of equalisation, until no scale moves by more than a thousandth
LINEAR = (nn.Linear, *CONVOLUTIONS)
PASSING = (
    nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Identity, nn.Flatten,
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
PASSING_NAMES = {
    "relu", "relu_", "leaky_relu", "dropout", "flatten", "max_pool1d", "max_pool2d", "boolean_dispatch",
    "avg_pool1d", "avg_pool2d", "adaptive_avg_pool2d",
}  # fmt: skip
# Modules and functions f with f(s · x) = s · f(x) for s > 0, which keep channels apart.


def norms(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(layer, batch norm) for every norm that follows a convolution or linear layer and nothing else reads that."""
    modules = dict(model.named_modules())
    for node in trace(model).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], _BatchNorm):
            continue
        maker = node.args[0]
        if maker.op == "call_module" and isinstance(modules[maker.target], LINEAR) and len(maker.users) == 1:
            yield maker.target, node.target


def fold_norms(model: nn.Module) -> None:
    """Multiply every batch norm into the weights before it, in place; it keeps the shift where these have no bias.

    Source: Jacob et al., Quantization and training for integer-arithmetic-only inference, arXiv 1712.05877, sec. 3.2.
    """
    for name, norm_name in norms(model):
        layer: Any = model.get_submodule(name)
        norm: Any = model.get_submodule(norm_name)
        if norm.running_var is None:
            continue
        gamma = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
        factor = gamma / torch.sqrt(norm.running_var + norm.eps)
        layer.weight.mul_(_column(factor, layer.weight))
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * factor
        norm.running_var.fill_(1 - norm.eps)
        norm.running_mean.zero_()
        if norm.weight is not None:
            norm.weight.fill_(1)
        if layer.bias is not None:
            layer.bias.mul_(factor).add_(shift)
            shift = torch.zeros_like(shift)
        if norm.bias is not None:
            norm.bias.copy_(shift)
        else:
            norm.running_mean.copy_(-shift)


def equalise(model: nn.Module) -> None:
    """Share the range of every channel evenly between the layer that makes it and the one that reads it, in place.

    With r₁ and r₂ the largest weights of a channel there, w₁ and b₁ are divided by √(r₁ / r₂) and w₂ multiplied by it.
    Batch norms should be folded first.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv 1906.04721.
    """
    found = list(_pairs(model))
    for _ in range(SWEEPS):
        if max([_equalise(*pair) for pair in found], default=0.0) < CLOSE:
            return


def _pairs(model: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
    """(layer, folded batch norm behind it or None, the one layer that reads its channels)."""
    modules = dict(model.named_modules())
    for node in trace(model).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], LINEAR):
            continue
        norm, at = None, node
        while len(at.users) == 1:
            at = next(iter(at.users))
            if not _passes(at, modules):
                break
            if at.op == "call_module" and isinstance(modules[at.target], _BatchNorm):
                norm = modules[at.target]
        reader = modules.get(at.target) if at.op == "call_module" else None
        if isinstance(reader, LINEAR) and at is not node and _by_channel(modules[node.target], reader) is not None:
            yield modules[node.target], norm, reader


def _passes(node: fx.Node, modules: dict[str, Any]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        folded = isinstance(module, _BatchNorm) and module.weight is not None and bool((module.weight == 1).all())
        return isinstance(module, PASSING) or (folded and bool((module.running_mean == 0).all()))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in PASSING_NAMES


def _by_channel(maker: Any, reader: Any) -> Tensor | None:
    """The reader's weight as (C, n), a view by channel of the maker; None where channels are mixed."""
    size, weight = len(maker.weight), reader.weight
    if isinstance(reader, nn.Linear):  # (out, C · positions)
        return weight.view(len(weight), size, -1).transpose(0, 1) if reader.in_features % size == 0 else None
    if reader.groups == 1:
        return weight.transpose(0, 1)
    return weight.view(size, -1) if reader.groups == reader.in_channels == size else None


def _equalise(maker: Any, norm: Any, reader: Any) -> float:
    """One step for one pair; the largest |log s|."""
    read = _by_channel(maker, reader)
    assert read is not None
    one, two = maker.weight.flatten(1).abs().amax(dim=1), read.abs().flatten(1).amax(dim=1)
    s = torch.where((one > 0) & (two > 0), (one / two).sqrt(), 1.0)
    maker.weight.div_(_column(s, maker.weight))
    for bias in (maker.bias, None if norm is None else norm.bias):
        if bias is not None:
            bias.div_(s)
    read.mul_(_column(s, read))
    return float(s.log().abs().max())


def _column(numbers: Tensor, weight: Tensor) -> Tensor:
    return numbers.view(-1, *(1,) * (weight.dim() - 1))
