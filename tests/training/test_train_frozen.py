"""What a training leaves as it is, frozen layers, and its last batch, never of one example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Progress
from modelopt_core.training.loop import fit
from modelopt_core.workloads.workload import Classification, Split, Workload, shuffled_batches


class Normed(nn.Module):
    """Two layers, each with a batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.two, self.norm2 = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.two(self.norm1(self.one(x)).relu()))


def blobs(n: int) -> Workload:
    """n examples of three classes in four dimensions, in every split."""
    generator = torch.Generator().manual_seed(n)
    targets = torch.arange(n) % 3
    split = Split(torch.randn(n, 4, generator=generator) + targets[:, None], targets, range(n))
    return Classification(
        "blobs", "Blobs", "image", "accuracy", ("a", "b", "c"), split, split, split, (), 1 / 3, f"{n}"
    )


@pytest.mark.parametrize(("n", "size", "sizes"), [
    (65, 64, [65]), (129, 64, [64, 65]), (66, 64, [64, 2]), (64, 64, [64]), (3, 1, [1, 1, 1]), (1, 64, [1]),
])  # fmt: skip
def test_shuffled_batches_by_hand(n: int, size: int, sizes: list[int]) -> None:
    """A last batch of one joins the one before it; whatever the number, it is one permutation, cut."""
    batches = list(blobs(n).train.places(size, torch.Generator().manual_seed(3)))
    assert [len(at) for at in batches] == sizes
    assert shuffled_batches(n, size) == len(sizes)
    assert torch.equal(torch.cat(batches), torch.randperm(n, generator=torch.Generator().manual_seed(3)))


def test_a_last_batch_of_one_example_trains() -> None:
    told: list[Progress] = []
    torch.manual_seed(0)
    fit(Normed(), blobs(65), epochs=2, lr=1e-2, report=told.append)  # type: ignore[arg-type]
    assert told[-1].step == told[-1].total == 2


def test_a_batch_norm_and_batches_of_one_example() -> None:
    with pytest.raises(ModelOptError, match="a batch norm learns from 2 examples or more at a time; choose"):
        fit(Normed(), blobs(6), epochs=1, lr=1e-2, batch_size=1)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_what_is_frozen_stays_and_stays_frozen(optimizer: str) -> None:
    torch.manual_seed(1)
    model = Normed()
    for module in (model.one, model.norm1):
        module.requires_grad_(False)
    model.two.bias.requires_grad_(False)
    done = fit(model, blobs(40), epochs=3, lr=0.05, weight_decay=0.1, batch_size=8, optimizer=optimizer)  # type: ignore[arg-type]
    stays = {name: name.startswith(("one.", "norm1.")) or name == "two.bias" for name in model.state_dict()}
    assert {n: torch.equal(t, done.state_dict()[n]) for n, t in model.state_dict().items()} == stays
    assert {n: p.requires_grad for n, p in done.named_parameters()} == {
        n: not stays[n] for n, _ in done.named_parameters()
    }
    assert not any(module.training for module in done.modules())


def test_a_network_that_is_all_frozen_says_so() -> None:
    with pytest.raises(ModelOptError, match="every weight of Normed is frozen, and nothing is left to train; free"):
        fit(Normed().requires_grad_(False), blobs(6), epochs=1, lr=1e-2)
