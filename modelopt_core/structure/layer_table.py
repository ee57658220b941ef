"""What a model is made of: one row per layer with its weights, zeros, and multiply–accumulates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from modelopt_core.errors import ModelOptError
from modelopt_core.models import identity, sound
from modelopt_core.models.composite import Composite
from modelopt_core.structure.channels import CONVOLUTIONS
from modelopt_core.structure.trace import trace

WEIGHTED = (nn.Linear, *CONVOLUTIONS, nn.Embedding)  # layers whose weights can be pruned and quantized


@dataclass(frozen=True)
class Layer:
    """One layer that holds weights. shape: of its weight; macs: multiply–accumulates for one example."""

    name: str
    kind: str
    shape: tuple[int, ...]
    outputs: int  # channels, units or embedding width
    parameters: int
    nonzero: int
    macs: int
    levels: int | None  # points of the integer grid of its weight, if it lies on one


class _Counter(fx.Interpreter):
    """Runs the graph on one example and notes the multiply–accumulates of every layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, graph=trace(model))
        self.macs: dict[str, int] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = super().call_module(target, args, kwargs)
        layer = self.fetch_attr(str(target))
        if isinstance(layer, CONVOLUTIONS):  # every output number is a sum over one patch
            self.macs[target] = self.macs.get(target, 0) + result[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            self.macs[target] = self.macs.get(target, 0) + result[0].numel() * layer.in_features
        elif isinstance(layer, nn.MultiheadAttention):
            self.macs[target] = self.macs.get(target, 0) + _attention_macs(layer, *args[:3])
        return result


def _attention_macs(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> int:
    """Of one example: projections of query, key, value and result, then scores and their weighted sum of values."""
    at = 1 if layer.batch_first and query.dim() == 3 else 0  # dimension of the sequence
    sent, read, inner = query.shape[at], key.shape[at], layer.num_heads * layer.head_dim
    projections = inner * (sent * (query.shape[-1] + layer.embed_dim) + read * (key.shape[-1] + value.shape[-1]))
    return projections + 2 * sent * read * inner


def layers(model: nn.Module, example: Tensor) -> list[Layer]:
    """The layers that hold weights, in order of definition. example: one input (1, *shape)."""
    sound.check(model)
    macs = _macs_by_layer(identity.apart(model), example)
    rows = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or next(module.children(), None) is not None:
            continue
        parameters = sum(p.numel() for p in module.parameters())
        nonzero = sum(int(torch.count_nonzero(p)) for p in module.parameters())
        outputs = weight.shape[1] if isinstance(module, nn.Embedding) else weight.shape[0]
        levels = getattr(module, "weight_levels", None)
        rows.append(
            Layer(
                name,
                type(module).__name__,
                tuple(weight.shape),
                outputs,
                parameters,
                nonzero,
                macs.get(name, 0),
                levels,
            )
        )
    return rows


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply–accumulates of one forward pass on one example, of convolutions and linear layers."""
    model = identity.apart(model)
    try:
        return sum(_macs_by_layer(model, example).values())
    except ModelOptError:  # no static graph: let PyTorch count what really runs
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(example)
        return counter.get_total_flops() // 2


def _macs_by_layer(model: nn.Module, example: Tensor) -> dict[str, int]:
    if isinstance(model, Composite) and model.skips:  # as if all of it ran
        parts = enumerate(_macs_by_layer(m, model.taken(i, example)) for i, m in enumerate(model.members))
        return {f"members.{i}.{name}": count for i, part in parts for name, count in part.items()}
    counter = _Counter(model)
    with torch.no_grad():
        counter.run(example)
    return counter.macs
