"""A whole model: layer after layer, each beside what it meets now that the earlier ones are quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.machine.events import Note, Part, Report
from modelopt_core.models import activation_points, weight_grid
from modelopt_core.models.weight_grid import Grid
from modelopt_core.steps.checks import FLOATS
from modelopt_core.steps.quantize.calibrate import compensated, gather, reached, rows, watch
from modelopt_core.steps.quantize.observers import OBSERVERS
from modelopt_core.steps.quantize.prepare import norms
from modelopt_core.steps.quantize.roundings import ROUNDINGS
from modelopt_core.steps.quantize.tensor import Scheme, quantize_tensor
from modelopt_core.structure.layer_inputs import sample
from modelopt_core.structure.layer_table import WEIGHTED
from modelopt_core.workloads.workload import Workload

MOST_VALUES = 2**17  # of an activation that an observer looks at


def quantize_layers(
    model: nn.Module,
    workload: Workload,
    scheme: Scheme,
    bits: Mapping[str, int],
    rounding: str,
    examples: int,
    corrected: bool,
    generator: torch.Generator,
    report: Report,
) -> None:
    """Put every weight on points of its own, in place.

    bits: layer -> its own; examples: how many of the train split a rounding that needs data, or a correction, looks at;
    corrected: also give every layer its mean outputs back. A weight that is zero stays so. An embedding goes to its
    nearest points without data: each of its weights is an output by itself.
    """
    seed, layers = generator.initial_seed(), dict(weighted(model))
    needs_data = scheme.kind != "codebook" and bool(ROUNDINGS[rounding]["needs_data"])
    chosen = sample(len(workload.train), examples, seed)
    parts = reached(model, workload, chosen) if needs_data or corrected else {}
    before = gather(model, workload, parts, examples, seed) if parts else {}
    behind = _behind(model, parts) if corrected else {}
    ordered = [*before, *(name for name in layers if name not in before)]  # as in the forward pass
    names = [name for name in ordered if bits.get(name) != FLOATS]
    between: list[str] = []
    for at, name in enumerate(names):
        layer, how, inputs = layers[name], rounding, None
        weight = layer.get_parameter("weight").detach()
        gone = weight == 0
        if needs_data and (name not in before or isinstance(layer, nn.Embedding)):
            how = "nearest"
        elif needs_data:
            now = watch(model, workload, parts, [name])[name]
            was, inputs = (rows(layer, seen.inputs, seed) for seen in (before[name], now))  # (groups, M, n)
            weight = compensated(weight, was, inputs).masked_fill(gone, 0.0)
        own = replace(scheme, bits=bits.get(name, scheme.bits))
        values, points = quantize_tensor(weight, own, how, generator, Part(report, at, len(names)), inputs)
        layer.get_parameter("weight").copy_(values)
        weight_grid.attach(layer, points)
        if isinstance(points, Grid) and bool((points.zero_point % 1 != 0).any()) and bool(gone.any()):
            between.append(name)
        if corrected and name in before:
            now = watch(model, workload, parts, [name])[name]
            correct(model, name, behind.get(name), before[name].mean - now.mean)
    if between:
        report(Note(f"one bit has no zero: what is zero in {', '.join(between)} stays so, beside the two points"))
    if parts and (unmet := [name for name in names if name not in before]):
        report(Note(f"what reaches {', '.join(unmet)} was not seen: nearest points, without data"))


def _behind(model: nn.Module, parts: Iterable[str]) -> dict[str, str]:
    """Layer -> the batch norm behind it, part by part."""
    found = ((part, pair) for part in parts for pair in norms(model.get_submodule(part[:-1])))
    return {part + layer: part + norm for part, (layer, norm) in found}


def correct(model: nn.Module, name: str, norm: str | None, missing: Tensor) -> None:
    """Add the `missing` mean (out,) of a layer's outputs to its bias, or take it off the mean of the norm behind it.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv 1906.04721,
    sec. 4.2 (empirical).
    """
    bias = getattr(model.get_submodule(name), "bias", None)
    if bias is not None:
        bias.add_(missing)
    elif norm is not None:
        mean: Any = model.get_submodule(norm).running_mean
        mean.sub_(missing)


def quantize_inputs(model: nn.Module, workload: Workload, bits: int, observer: str, examples: int, seed: int) -> None:
    """Round what every convolution and linear layer reads to 2**bits levels, in place; ranges from train examples."""
    names = [name for name, layer in weighted(model) if not isinstance(layer, nn.Embedding)]
    met = watch(model, workload, reached(model, workload, sample(len(workload.train), examples, seed)), names)
    for name, seen in met.items():
        flat = seen.inputs.reshape(1, -1)
        draw = torch.randint(flat.shape[1], (MOST_VALUES,), generator=torch.Generator().manual_seed(seed))
        values = flat if flat.shape[1] <= MOST_VALUES else flat[:, draw]
        scale, zero_point = OBSERVERS[observer](values, 2**bits)
        activation_points.attach(
            model.get_submodule(name), Grid(scale, zero_point.round().clamp(0, 2**bits - 1), 2**bits)
        )


def weighted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of the layers whose weights are quantized."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))
