"""A criterion at work on one model: it scores layers and groups of channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.registry import Entry
from modelopt_core.steps.prune.criteria import CRITERIA, Stats
from modelopt_core.steps.prune.stats import ENDS, WHOLE, Gathered, bn_scale, of_group, of_layer
from modelopt_core.structure import channels
from modelopt_core.structure.channels import Group


@dataclass(frozen=True, eq=False)
class Scorer:
    """gathered: what the criterion needs about the model's connections, from `gather`."""

    model: nn.Module
    criterion: Entry[Callable[[Stats], Tensor]]
    generator: torch.Generator
    gathered: Gathered = field(default_factory=dict)

    def layer(self, name: str) -> Tensor:
        """(R, n): a score for every weight of the layer."""
        weight = self.model.get_submodule(name).get_parameter("weight").detach().flatten(1)
        return self._score(weight, **of_layer(name, self.gathered))

    def group(self, group: Group) -> Tensor:
        """(C,): a score for every channel of the group."""
        roles = WHOLE if self._declared("through") is not False else ENDS
        gathered: dict[str, Any] = of_group(self.model, group, self.gathered, roles)
        if self.needs_norm:
            gathered["bn_scale"] = bn_scale(self.model, group)
        scores = self._score(channels.weights(self.model, group, roles), channels=True, **gathered)
        return scores.sum(dim=1) if scores.dim() == 2 else scores

    @property
    def needs_norm(self) -> bool:
        """Only channels that batch norm scales can be scored."""
        return "bn_scale" in self._needs

    @property
    def comparable(self) -> bool:
        """Do scores of different groups compare as they are?"""
        return bool(self._declared("comparable"))

    def scored(self, groups: list[Group]) -> list[Group]:
        """Those groups that the criterion can score; where there is none, an error that says which criteria apply."""
        if not self.needs_norm:
            return groups
        found = [g for g in groups if bn_scale(self.model, g) is not None]
        if groups and not found:
            raise ModelOptError(
                f"criterion {self.criterion.name!r} needs batch norm, and this model has none over channels that can "
                f"go; choose from {', '.join(_without_norm())}"
            )
        return found

    @property
    def _needs(self) -> tuple[str, ...]:
        return tuple(self.criterion["needs"])  # type: ignore[arg-type]

    def _declared(self, name: str) -> object:
        return self.criterion.properties.get(name)

    def _score(self, weight: Tensor, **gathered: Any) -> Tensor:
        return self.criterion(Stats(weight, self.generator, **gathered))


def _without_norm() -> list[str]:
    """Names of the criteria that score any channel."""
    fields: dict[str, Any] = {name: entry.properties for name, entry in CRITERIA.items()}
    return [name for name, p in fields.items() if "channel" in p["granularity"] and "bn_scale" not in p["needs"]]
