"""What is gathered for criteria, once per model, against PyTorch's own gradients and patches copied out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.steps.prune import CRITERIA, stats
from modelopt_core.workloads.workload import Classification
from tests.steps.test_prune_criteria import toy

ALL = ("pre", "joint", "grad", "square")


class Mixed(nn.Module):
    """Words, a 1-D convolution in groups and with a stride, an in-place ReLU, a linear layer over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2)
        self.act = nn.ReLU(inplace=True)
        self.over = nn.Linear(6, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.act(self.conv(self.words(tokens).transpose(1, 2)))
        return self.fc(torch.tanh(self.over(x.transpose(1, 2))).mean(1))


@pytest.fixture(scope="module")
def mixed() -> tuple[Mixed, Classification]:
    torch.manual_seed(0)
    return Mixed().eval(), toy(torch.randint(0, 4, (7, 6)), torch.tensor([0, 1, 1, 0, 1, 0, 0]))


def test_gradients_are_those_of_single_examples(mixed):
    """grad and square against one backward pass per example."""
    net, w = mixed
    found = stats.gather(net, w, ALL)
    for name in ("words", "conv", "over", "fc"):
        weight = net.get_submodule(name).weight
        alone = [
            torch.autograd.grad(cross_entropy(net(x[None]), y[None]), weight)[0]
            for x, y in zip(w.train.inputs, w.train.targets, strict=True)
        ]
        torch.testing.assert_close(found["grad"][name], torch.stack(alone).mean(0))
        torch.testing.assert_close(found["square"][name], torch.stack(alone).square().mean(0))


def test_pairs_are_those_of_unfolded_patches(mixed):
    """pre and joint of the grouped convolution against patches copied out; of the words against counting."""
    net, w = mixed
    found = stats.gather(net, w, ALL)
    with torch.no_grad():
        x = net.words(w.train.inputs).transpose(1, 2)  # (7, 4, 6)
        y = net.conv(x)  # (7, 6, 3)
        patches = nn.functional.pad(x, (1, 1)).unfold(2, 3, 2)  # (7, 4, 3, 3): example, input, position, tap
    for j in range(6):
        mine = patches[:, 2 * (j // 3) : 2 * (j // 3) + 2]
        torch.testing.assert_close(found["joint"]["conv"][j], torch.einsum("bipk,bp->ik", mine, y[:, j]) / 7)
        torch.testing.assert_close(found["pre"]["conv"][j], mine.square().sum((0, 2)) / 7)
    counts = torch.bincount(w.train.inputs.flatten(), minlength=5)
    torch.testing.assert_close(found["pre"]["words"], (counts / 7)[:, None].expand(5, 4))
    assert not found["joint"]["words"][4].any(), "a word that never occurs acts with nothing"


class Scaled(nn.Module):
    """Every kind of layer that scales channels, after a depthwise convolution; one γ is zero, one norm has none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.deep = nn.Conv2d(4, 4, 3, groups=4)
        self.batch, self.plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        self.slope, self.group = nn.PReLU(4), nn.GroupNorm(2, 4)
        self.fc, self.flat = nn.Linear(4, 3), nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group(self.slope(self.plain(self.batch(self.deep(self.conv(x))))))
        return self.out(self.flat(self.fc(x.mean((2, 3)))))


def test_what_scales_channels_is_gathered_as_well():
    """Gradients against one backward pass per example; pairs against the normalised channel."""
    torch.manual_seed(1)
    net = Scaled().eval()
    with torch.no_grad():
        for name in ("batch", "group", "flat"):
            net.get_submodule(name).weight.uniform_(-1, 1)
        net.batch.weight[0] = 0.0
        net.batch.running_mean.uniform_(-1, 1)
        net.batch.running_var.uniform_(0.5, 2)
    w = toy(torch.randn(6, 1, 7, 7), torch.tensor([0, 1, 1, 0, 1, 0]))
    found = stats.gather(net, w, ALL)
    for name in ("batch", "slope", "group", "flat", "deep"):
        weight = net.get_submodule(name).weight
        alone = torch.stack([
            torch.autograd.grad(cross_entropy(net(x[None]), y[None]), weight)[0]
            for x, y in zip(w.train.inputs, w.train.targets, strict=True)
        ])  # fmt: skip
        torch.testing.assert_close(found["grad"][name].view_as(weight), alone.mean(0), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found["square"][name].view_as(weight), alone.square().mean(0), atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        z = net.deep(net.conv(w.train.inputs))
        shape = (1, 4, 1, 1)
        hat = (z - net.batch.running_mean.view(shape)) / (net.batch.running_var + net.batch.eps).sqrt().view(shape)
        y = net.batch(z)
    torch.testing.assert_close(found["pre"]["batch"].flatten(), hat.square().sum((0, 2, 3)) / 6, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["joint"]["batch"].flatten(), (hat * y).sum((0, 2, 3)) / 6, rtol=1e-4, atol=1e-6)
    assert "plain" not in found["grad"]


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "random"])
def test_every_kind_of_channel_is_scored(criterion: str):
    torch.manual_seed(2)
    net, w = Scaled().eval(), toy(torch.randn(6, 1, 7, 7), torch.tensor([0, 1, 1, 0, 1, 0]))
    small = mo.Prune(criterion=criterion, ratio=0.5, rounds=2).apply(net, w)
    assert (small.conv.out_channels, small.deep.groups, small.batch.num_features) == (2, 2, 2)
    assert torch.isfinite(small(w.example)).all()


def test_what_is_gathered_is_kept_and_the_model_is_left_alone():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    before, key = [p.clone() for p in model.parameters()], identity.key(model)
    STORE.clear()
    first = stats.gather(model, w, ALL)
    assert stats.gather(mo.baseline("digits", "cnn"), w, reversed(ALL)) is first
    assert stats.gather(model, w, ("bn_scale",)) == {}
    assert identity.key(model) == key
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(model.parameters(), before, strict=True))
    assert not any(m._forward_hooks for m in model.modules())
    assert all(math.isfinite(t.sum()) for found in first.values() for t in found.values())


def test_a_layer_that_no_data_reaches_is_one_line():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.inner.weight)

    w = toy(torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(mo.ModelOptError, match="no data reaches 'inner' as a layer of its own.*freeze the layer"):
        mo.Prune(criterion="hebbian", granularity="weight").apply(Reads(), w)


def test_statistics_are_gathered_once_however_often_the_slider_moves(monkeypatch: pytest.MonkeyPatch):
    """Five ratios of two granularities cost one pass over the data; another model costs another.

    Curves that earlier tests left in the background gather other sums.
    """
    w, gathered = mo.workload("digits"), []
    real = stats._gather
    monkeypatch.setattr(stats, "_gather", lambda *a: gathered.append(a[2]) or real(*a))
    STORE.clear()
    for name, count in (("cnn", 1), ("mlp", 2), ("cnn", 2)):
        model = mo.baseline("digits", name)
        for granularity in ("weight", "channel"):
            for ratio in (0.11, 0.12, 0.13, 0.14, 0.15):
                mo.Prune(criterion="fisher", granularity=granularity, ratio=ratio).apply(model, w)
        assert gathered.count(("square",)) == count
