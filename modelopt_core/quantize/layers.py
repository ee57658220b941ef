"""A whole model: layer after layer, each beside what it meets now that the earlier ones are quantized."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from modelopt_core import grid
from modelopt_core.calls import sample
from modelopt_core.errors import ModelOptError
from modelopt_core.events import Report
from modelopt_core.layers import WEIGHTED
from modelopt_core.quantize.calibrate import compensated, gather, rows, watch
from modelopt_core.quantize.tensor import Scheme, quantize_tensor
from modelopt_core.workload import Workload


def quantize_layers(
    model: nn.Module,
    workload: Workload,
    scheme: Scheme,
    rounding: str,
    examples: int,
    generator: torch.Generator,
    report: Report,
) -> None:
    """Put every weight on points of its own, in place. examples: of the train split, for a rounding that needs data.

    An embedding goes to its nearest points without data: each of its weights is an output by itself.
    """
    seed, layers = generator.initial_seed(), dict(weighted(model))
    before = gather(model, workload, examples, seed) if examples else {}
    at = sample(len(workload.train), examples, seed)
    for name in [*before, *(name for name in layers if name not in before)]:  # in the order of the forward pass
        layer, how = layers[name], rounding
        weight, inputs = layer.get_parameter("weight").detach(), None
        if name not in before or isinstance(layer, nn.Embedding):
            how = "nearest" if examples else rounding
        else:
            now = watch(model, workload, at, [name])[name]
            was, inputs = (rows(layer, seen.inputs, seed) for seen in (before[name], now))  # (groups, M, n)
            weight = compensated(weight, was, inputs)
        values, points = quantize_tensor(weight, scheme, how, generator, report, inputs)
        layer.get_parameter("weight").copy_(values)
        grid.attach(layer, points)


def weighted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of the layers whose weights are quantized."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))


def check_finite(model: nn.Module) -> None:
    """ModelOptError for a weight that no grid can hold."""
    for name, layer in weighted(model):
        wrong = int((~layer.get_parameter("weight").isfinite()).sum())
        if wrong:
            raise ModelOptError(
                f"{wrong:,} weights of {name} are not finite, and no grid holds them; train or load the model again"
            )
