"""What a step does inside one layer: its weights, the scores that decide, what goes, and where the cut is.

It is what `Prune` itself does, overheard: the same code chooses, and whoever wants to see it gets the scores as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modelopt_core.errors import unknown
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.steps.prune.criteria import CRITERIA
from modelopt_core.steps.prune.cuts import Left, prune_channels
from modelopt_core.steps.prune.masks import prune_weights
from modelopt_core.steps.prune.prune import Prune
from modelopt_core.steps.prune.scores import Scorer
from modelopt_core.steps.prune.stats import gather
from modelopt_core.structure.channels import Group
from modelopt_core.structure.layer_table import WEIGHTED
from modelopt_core.workloads.workload import Workload


@dataclass(frozen=True, eq=False)
class Reveal:
    """One layer of the network as it came.

    weight: (out, in, *kernel); gone: the same shape, bool, also where the layer only loses inputs; scores: (N,) of its
    weights, or of the channels that it makes, empty where nothing of its own was chosen; goes: (N,) bool.
    """

    weight: Tensor
    gone: Tensor
    scores: Tensor
    goes: Tensor

    @property
    def cut(self) -> float | None:
        """The highest score that goes, None where scores alone do not tell (nothing goes, or n of every m)."""
        return between(self.scores, self.goes)

    @property
    def magnitude_cut(self) -> float | None:
        """The same in |w|, None where magnitude alone does not tell what goes."""
        return between(self.weight.abs().flatten(), self.gone.flatten())


def between(values: Tensor, goes: Tensor) -> float | None:
    """The highest of the (N,) values that go, if all that stay are at least as high."""
    if not goes.any() or goes.all() or values[goes].max() > values[~goes].min():
        return None
    return float(values[goes].max())


@dataclass(frozen=True, eq=False)
class _Overheard(Scorer):
    """A scorer whose scores are kept, by layer or by group."""

    said: dict[str, Tensor] = field(default_factory=dict)

    def layer(self, name: str) -> Tensor:
        self.said[name] = super().layer(name)
        return self.said[name]

    def group(self, group: Group) -> Tensor:
        self.said[group.name] = super().group(group)
        return self.said[group.name]


@dataclass(frozen=True, eq=False)
class _Choice:
    """scores: layer or group -> its scores; masks: layer -> what goes; left: of the channels, where they go."""

    scores: dict[str, Tensor]
    masks: dict[str, Tensor]
    left: Left | None
    groups: list[Group]

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for found in (self.scores, self.masks) for t in found.values())


def reveal(model: nn.Module, workload: Workload, step: Prune, layer: str, *, seed: int = 0) -> Reveal:
    """Look into one layer. In rounds, what is shown is what one shot removes; what follows a cut changes no choice."""
    once = step.changed(rounds=1, recovery="none")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    if layer not in layers:
        raise unknown("layer", layer, layers)
    key = ("prune reveal", once.key([model], workload, seed))
    choice: _Choice = STORE.get(key, lambda: _choose(model, workload, once, seed), lambda c: c.size_bytes)
    weight = layers[layer].get_parameter("weight").detach()
    if choice.left is None:
        gone = choice.masks.get(layer, torch.zeros_like(weight, dtype=torch.bool))
        scores = choice.scores.get(layer, torch.empty(0)).flatten()
        return Reveal(weight, gone, scores, gone.flatten()[: len(scores)])
    made = next((g for g in choice.groups if layer in g.makers and g.name in choice.scores), None)
    scores = choice.scores[made.name] if made else torch.empty(0)
    goes = _goes(made, choice.left) if made else torch.empty(0, dtype=torch.bool)
    return Reveal(weight, _gone(layers[layer], layer, choice.groups, choice.left), scores, goes)


def _choose(model: nn.Module, workload: Workload, step: Prune, seed: int) -> _Choice:
    """Prune a private copy, and listen."""
    criterion, copy = CRITERIA[step.criterion], identity.clone(model)
    gathered = gather(copy, workload, criterion["needs"], seed)  # type: ignore[arg-type]
    scorer = _Overheard(copy, criterion, torch.Generator().manual_seed(seed), gathered)
    with torch.no_grad():
        if step.granularity != "channel":
            masks = prune_weights(copy, step.plan, scorer, step.granularity, step.block)
            return _Choice(scorer.said, dict(masks), None, [])
        whole = Left.whole(copy, workload.example)
        _, left = prune_channels(copy, whole, step.plan, scorer)
        return _Choice(scorer.said, {}, left, whole.groups)


def _goes(group: Group, left: Left) -> Tensor:
    """(C,) bool: which channels of the group go."""
    return torch.ones(group.size, dtype=torch.bool).index_fill(0, left.places[group.name], False)


def _gone(layer: nn.Module, name: str, groups: list[Group], left: Left) -> Tensor:
    """What of a layer's weight goes with the channels that it makes and with those that it reads."""
    gone = torch.zeros_like(layer.get_parameter("weight"), dtype=torch.bool)
    for group in groups:
        for member in group.members:
            if member.layer == name and member.role in ("in", "out"):
                columns = member.role == "in" or isinstance(layer, nn.Embedding)
                lines = gone.transpose(0, 1) if columns else gone
                lines[member.places[_goes(group, left)].flatten()] = True
    return gone
