"""What can be pruned by itself: a layer, or, where whole channels go, a group of coupled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from modelopt_core.structure import channels
from modelopt_core.structure.layer_table import WEIGHTED

UNFOLLOWED = "its channels can't be followed"


@dataclass(frozen=True)
class Unit:
    """`name` is what `Prune.ratios` and `Prune.frozen` call it. layers: those that lose something when it does.

    size: how many channels or weights it has; stays: why nothing of it can go, or empty.
    """

    name: str
    layers: tuple[str, ...]
    size: int
    stays: str = ""


def units(model: nn.Module, example: Tensor, granularity: str) -> Sequence[Unit]:
    """The units of a model, in the order of the forward pass or of definition. example: one input (1, *shape)."""
    return _channels(model, example) if granularity == "channel" else _layers(model)


def _layers(model: nn.Module) -> list[Unit]:
    weighted = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    return [Unit(name, (name,), layer.get_parameter("weight").numel()) for name, layer in weighted]


def _channels(model: nn.Module, example: Tensor) -> list[Unit]:
    found = [Unit(g.name, tuple(g.makers), g.size, g.frozen) for g in channels.groups(model, example)]
    followed = {layer for unit in found for layer in unit.layers}
    lost = [unit for unit in _layers(model) if unit.name not in followed]
    return [*found, *(Unit(unit.name, unit.layers, unit.size, UNFOLLOWED) for unit in lost)]
