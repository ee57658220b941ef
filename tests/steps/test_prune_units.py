"""What can be pruned by itself, and why the rest stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.steps.prune import units
from modelopt_core.steps.prune.channel_units import UNFOLLOWED, Unit


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.second(x))


def test_coupled_layers_are_one_unit_and_the_output_stays() -> None:
    net, example = Residual(), torch.zeros(1, 4)
    found = units(net, example, "channel")
    assert found[0] == Unit("first", ("first", "second"), 6)
    assert (found[1].name, found[1].size) == ("last", 2)
    assert "output" in found[1].stays
    assert units(net, example, "weight") == [
        Unit("first", ("first",), 24), Unit("second", ("second",), 36), Unit("last", ("last",), 12)
    ]  # fmt: skip


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.linalg.matrix_exp(self.inside(x).unsqueeze(2) @ x.unsqueeze(1)).sum(2))


def test_every_layer_that_stays_says_why() -> None:
    found = {unit.name: unit for unit in units(Unknown(), torch.zeros(1, 4), "channel")}
    assert set(found) == {"inside", "out"}
    assert all(unit.stays for unit in found.values())
    assert UNFOLLOWED.startswith("its channels")


def test_every_unit_is_what_a_ratio_may_name() -> None:
    w = mo.workload("digits")
    for name in w.models:
        model = mo.baseline("digits", name)
        for granularity in ("weight", "channel"):
            names = [u.name for u in units(model, w.example, granularity) if not u.stays]
            step = mo.Prune(ratio=0.0, granularity=granularity, ratios=tuple((n, 0.5) for n in names))
            assert mo.measure(step.apply(model, w), w).nonzero < mo.measure(model, w).nonzero
