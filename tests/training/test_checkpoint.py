"""Checkpoints of a training: whoever goes on from one ends with the bits of one that never stopped."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from modelopt_core import workloads  # noqa: F401  importing workloads registers them
from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Keeper, Progress, silent
from modelopt_core.models.spec import Spec
from modelopt_core.structure.build import build
from modelopt_core.training import checkpoint
from modelopt_core.training.loop import fit
from modelopt_core.workloads.augment import shift
from modelopt_core.workloads.workload import Workload, workload

CNN = Spec("cnn", (("hidden", 8), ("width1", 4), ("width2", 8)), (1, 8, 8))


class Stopped(Exception):
    """Somebody pulled the plug."""


class Memory:
    """A report that keeps the last checkpoint of each training and pulls the plug after some epochs."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.training, self.stop_after, self.epochs = "", 10**9, 0

    def __call__(self, event: object) -> None:
        if isinstance(event, Progress) and event.checkpoint:
            self.kept[self.training] = event.checkpoint()
            self.epochs += 1
            if self.epochs == self.stop_after:
                raise Stopped

    def recall(self, training: str) -> bytes | None:
        self.training, self.epochs = training, 0
        return self.kept.get(training)


@pytest.fixture(scope="module")
def digits() -> Workload:
    return workload("digits")


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([t.detach().flatten().float() for t in model.state_dict().values()])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"optimizer": "sgd", "schedule": "constant", "weight_decay": 0.01},
        {"augment": partial(shift, pixels=1), "keep_zeros": True},
        {"patience": 1, "lr": 0.1},
    ],
    ids=["adam", "sgd", "augmented", "patience"],
)
def test_stopped_after_every_epoch_it_ends_with_the_same_bits(how: dict[str, Any], digits: Workload) -> None:
    model, how = build(CNN), {"epochs": 4, "lr": 0.01, "batch_size": 128, **how}
    expected = fit(model, digits, **how)
    memory = Memory()
    memory.stop_after = 1
    for stops in range(10):  # noqa: B007  four epochs: it ends before
        with contextlib.suppress(Stopped):
            result = fit(model, digits, report=memory, **how)
            break
    assert torch.equal(weights(result), weights(expected))
    assert 2 <= stops <= 4
    assert len(memory.kept) == 1


def test_another_training_does_not_take_it(digits: Workload) -> None:
    memory = Memory()
    for how in ({}, {"lr": 0.02}, {"seed": 1}, {"augment": shift}, {"augment": partial(shift, pixels=1)}):
        fit(build(CNN), digits, **{"epochs": 1, "lr": 0.01, "batch_size": 512, "report": memory, **how})  # type: ignore[arg-type]
    assert len(memory.kept) == 5
    assert isinstance(memory, Keeper)
    assert not isinstance(silent, Keeper)


def test_damage_is_one_sentence() -> None:
    model = build(CNN)
    update, generator = torch.optim.AdamW(model.parameters()), torch.Generator()
    data = checkpoint.pack(model, update, generator, {}, [1, 2, 3, 0.5, 0.25])
    assert checkpoint.unpack(data, model, update, generator) == ({}, [1, 2, 3, 0.5, 0.25])
    other = checkpoint.pack(nn.Linear(2, 2), update, generator, {}, [])
    for damaged in (b"", data[:100], data[:-1], data[:8] + b"x" + data[9:], other):
        with pytest.raises(ModelOptError, match=r"the checkpoint of this training is damaged \(.*\); delete it"):
            checkpoint.unpack(damaged, model, update, generator)
