"""Modules with a learned head: over what the members say, or over what they see just before they say it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.models import weight_grid
from modelopt_core.models.composite import COMPOSITES, Call, Composite
from modelopt_core.structure.layer_inputs import calls
from modelopt_core.training.logistic import head
from modelopt_core.workloads.workload import Workload

FAINTEST = -100.0  # log-probability below which the head reads no difference: −∞ times a weight is no number


def read(said: Tensor) -> Tensor:
    """What a head over answers reads: log-probabilities (M, B, K) -> (B, M K)."""
    return said.clamp_min(FAINTEST).transpose(0, 1).flatten(1)


@COMPOSITES.register("stack")
class Stacked(Composite):
    """The members' log-probabilities beside each other, and a head that was fitted to them."""

    called = "Fuse"
    fitted_on = "val"

    def __init__(self, members: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.head = head(len(members) * classes, classes)

    @property
    def arithmetic(self) -> bool:
        return weight_grid.points_of(self.head) is None

    def answer(self, said: Tensor) -> Tensor:
        return torch.log_softmax(self.head(read(said)), dim=-1)


@COMPOSITES.register("trunk")
class Trunk(Composite):
    """A network without its last layer: inputs (b, *shape) -> features (b, P). layer: the name of what is taken off."""

    called = "Fuse"

    def __init__(self, members: Sequence[nn.Module], layer: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        taken = members[0].get_submodule(layer)
        if not isinstance(taken, nn.Linear):
            raise ModelOptError(f"{layer} is no linear layer, so what it reads is no feature; name the last one")
        self.width = taken.in_features
        members[0].set_submodule(layer, nn.Identity())

    @property
    def arithmetic(self) -> bool:
        return False

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        return calls[0](inputs)


@COMPOSITES.register("features")
class Joined(Composite):
    """Trunks whose features lie beside each other, and a head that reads them all."""

    called = "Fuse"
    fitted_on = "val"

    def __init__(self, members: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        if not all(isinstance(member, Trunk) for member in members):
            raise ModelOptError("features come from networks without their last layer; make it with Fuse")
        self.members = nn.ModuleList(members)
        self.head = head(sum(member.width for member in members), classes)  # type: ignore[misc]

    @property
    def arithmetic(self) -> bool:
        return False

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        return torch.log_softmax(self.head(torch.cat([call(inputs) for call in calls], dim=-1)), dim=-1)


def last_layer(model: nn.Module, workload: Workload) -> str | None:
    """Name of the linear layer whose result is the model's answer, used once; None where there is none."""
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    with torch.no_grad():
        answer = workload.forward(model, workload.example).logits
    used = calls(model, linear, workload, workload.example)
    if not used:
        return None
    name, call = used[-1]
    once = sum(other == name for other, _ in used) == 1
    return name if once and name and call.y.shape == answer.shape and torch.equal(call.y, answer) else None
