"""From scores to which channels go, in one round or several; `channels.narrow` takes them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.machine.events import Note, Report, silent
from modelopt_core.steps.prune.masks import Plan, choose
from modelopt_core.steps.prune.scores import Scorer
from modelopt_core.structure import channels
from modelopt_core.structure.channels import Group
from modelopt_core.structure.layer_table import WEIGHTED


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of a network's groups of channels.

    groups: as they lie in it now; places: group name -> (k,) where they were in the original network; sizes: of how
    many.
    """

    groups: list[Group]
    places: dict[str, Tensor]
    sizes: dict[str, int]

    @classmethod
    def whole(cls, model: nn.Module, example: Tensor) -> Left:
        """Nothing is gone yet. example: (1, *shape)."""
        found = channels.groups(model, example)
        return cls(found, {g.name: torch.arange(g.size) for g in found}, {g.name: g.size for g in found})

    def full(self, name: str, scores: Tensor) -> Tensor:
        """(k,) scores of what is left -> scores of the original channels; −∞ for what is gone, so it goes again."""
        return scores.new_full((self.sizes[name],), -torch.inf).index_copy_(0, self.places[name], scores)

    def only(self, keep: dict[str, Tensor]) -> Left:
        """keep: group name -> sorted indices among the channels that are left."""
        places = {name: at[keep[name]] if name in keep else at for name, at in self.places.items()}
        return replace(self, groups=channels.narrowed(self.groups, keep), places=places)


def prune_channels(
    model: nn.Module, left: Left, plan: Plan, scorer: Scorer, report: Report = silent
) -> tuple[nn.Module, Left]:
    """A copy without the lowest-scoring channels, and what is left: `plan`'s ratios of the original ones are gone then.

    All groups are scored before any is cut; one channel of each stays at least. Together, each group's scores are first
    divided by their mean, so that layers of different fan-in compare; unless the criterion says that its scores compare
    as they are.
    """
    plan = replace(plan, own=_own_of_groups(model, left.groups, plan.own))
    asked = [g for g in left.groups if not g.frozen and plan.of(g.name) > 0]
    groups = scorer.scored(asked)
    if alone := [g.name for g in asked if g not in groups]:
        report(Note(f"{', '.join(alone)}: left alone, {scorer.criterion.name} needs batch norm there"))
    scores = {g.name: scorer.group(g) for g in groups}
    if plan.together and not scorer.comparable:
        scores = {name: s / s.mean().clamp(min=1e-12) for name, s in scores.items()}
    keep = {}
    for name, goes in choose({name: left.full(name, s) for name, s in scores.items()}, plan).items():
        keep[name] = (~goes[left.places[name]]).nonzero().flatten()
        if goes.all():
            keep[name] = scores[name].argmax()[None]
            report(Note(f"{name}: one channel stays, a layer can't be empty"))
    return channels.narrow(model, left.groups, keep), left.only(keep)


def _own_of_groups(model: nn.Module, groups: list[Group], own: Mapping[str, float]) -> dict[str, float]:
    """Group name -> its own ratio. A layer's name stands for its group; layers of one group can't differ."""
    names = {g.name: [g] for g in groups}
    for g in groups:
        for maker in g.makers:
            if maker not in names or names[maker][0].name != maker:
                names.setdefault(maker, []).append(g)
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            names.setdefault(name, [])  # makes no channels that are followed: nothing goes
    found: dict[str, float] = {}
    for layer, ratio in own.items():
        if layer not in names:
            raise unknown("layer", layer, names)
        why = next(
            (g.frozen for g in names[layer] if g.frozen), "" if names[layer] else "the walk does not follow them"
        )
        if ratio > 0 and why:
            raise ModelOptError(f"channels of {layer} can't be cut: {why}; take its ratio out")
        for g in names[layer]:
            if found.setdefault(g.name, ratio) != ratio:
                others = ", ".join(m for m in g.makers if m != layer)
                raise ModelOptError(f"{layer} is coupled with {others}, whose ratio differs; give them one")
    return found
