"""Every criterion on numbers small enough for paper, and what is gathered for it against PyTorch's own gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import modelopt_core as mo
from modelopt_core import channels, identity
from modelopt_core.cache import STORE
from modelopt_core.prune import CRITERIA, Scorer, Stats, stats
from modelopt_core.workload import Classification, Split

ALL = ("pre", "joint", "grad", "square")


def score(name: str, weight: list[list[float]], **known: Any) -> Tensor:
    """The criterion's scores for a weight written by hand; known: fields of Stats as lists."""
    fields = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in known.items()}
    return CRITERIA[name](Stats(torch.tensor(weight), torch.Generator().manual_seed(0), **fields))


def toy(inputs: Tensor, targets: Tensor) -> Classification:
    """A workload of these examples only, the same in all splits."""
    part = Split(inputs, targets, range(len(inputs)))
    digest = str(inputs.double().sum().item()) + str(targets.tolist())
    return Classification("toy", "Toy", "image", "accuracy", ("a", "b"), part, part, part, (), 0.5, digest)


def test_l1_and_l2_by_hand():
    assert score("l1", [[1.0, -3.0]]).tolist() == [[1, 3]]
    assert score("l2", [[1.0, -3.0]]).tolist() == [[1, 9]]


def test_hebbian_by_hand():
    """x = 1 and 3, y = 2 and −1: Σ x·y = 2 − 3 = −1, Σ x² = 10, so |−1| / 10. A silent input scores 0."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.0]]))
    x, y = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[2.0], [-1.0]])
    call = stats.Call(layer, x, y, y)
    assert stats.joint(call).tolist() == [[-1, 0]]
    assert stats.pre(call).tolist() == [[10, 0]]
    found = score("hebbian", [[9.0, 9.0]], pre=[[10.0, 0.0]], joint=[[-1.0, 0.0]])
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.0]]))


def test_hebbian_is_the_weight_where_inputs_do_not_move_together():
    """Inputs e1 and e2 in turn: y is one weight at a time, so Σ x·y / Σ x² = w."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    gathered = stats.gather(net, toy(torch.eye(2), torch.tensor([0, 1])), ("pre", "joint"))
    scores = Scorer(net, CRITERIA["hebbian"], torch.Generator(), gathered).layer("0")
    torch.testing.assert_close(scores, net[0].weight.detach().abs())


def test_hebbian_over_patches_by_hand():
    """A 1×2 filter (1, 2) over (1, 0, 1): patches (1, 0) and (0, 1) give y = 1, 2. Σ x·y = (1, 2), Σ x² = (1, 1)."""
    layer = nn.Conv1d(1, 1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 2.0]]]))
    x = torch.tensor([[[1.0, 0.0, 1.0]]])
    y = layer(x).detach()
    call = stats.Call(layer, x, y, y)
    assert y.tolist() == [[[1, 2]]]
    assert stats.joint(call).tolist() == [[[1, 2]]]
    assert stats.pre(call).tolist() == [[[1, 1]]]


def test_hebbian_channels_count_what_comes_in_and_what_goes_out():
    """Two hidden units; inputs e1, e2; h = (1, 3) and (2, 4) by identity: fc1 scores |w|, fc2's come on top."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        net[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # y2 = (h1, 0)
    w = toy(torch.eye(2), torch.tensor([0, 1]))
    group = next(g for g in channels.groups(net, w.example) if not g.frozen)
    scorer = Scorer(net, CRITERIA["hebbian"], torch.Generator(), stats.gather(net, w, ("pre", "joint")))
    # h1 over the two examples: 1, 2; h2: 3, 4. Outgoing: Σ h1·h1 / Σ h1² = 1; Σ h2·h1 / Σ h2² = 11 / 25.
    torch.testing.assert_close(scorer.group(group), torch.tensor([1 + 2 + 1.0, 3 + 4 + 11 / 25]))


def test_taylor_and_fisher_by_hand():
    assert score("taylor", [[2.0, -3.0]], grad=[[0.5, 0.0]]).tolist() == [[1, 0]]
    assert score("fisher", [[2.0, -3.0]], square=[[0.5, 0.0]]).tolist() == [[1, 0]]


def test_activation_by_hand():
    """A mean square of 4 is a norm of 2 per example: |−3| · 2 = 6 beats |5| · 0."""
    assert score("activation", [[-3.0, 5.0]], pre=[[4.0, 0.0]]).tolist() == [[6, 0]]


def test_fpgm_by_hand():
    """Filters at 0, 1 and 5 on a line: distances sum to 6, 5 and 9, so the middle one goes first."""
    assert score("fpgm", [[0.0], [1.0], [5.0]]).tolist() == [6, 5, 9]


def test_bn_scale_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-2.0, 0.5]))
    group = next(g for g in channels.groups(net, torch.zeros(1, 1, 2, 2)) if not g.frozen)
    assert Scorer(net, CRITERIA["bn_scale"], torch.Generator()).group(group).tolist() == [2, 0.5]


def test_a_channel_counts_what_it_passes_through():
    """Two channels: into them 1 and −2, through γ = 3 and 4, out of them 5 and −6. taylor leaves the norm out."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1, bias=False)).eval()
    with torch.no_grad():
        for layer, values in zip(net, ([1.0, -2.0], [3.0, 4.0], [5.0, -6.0]), strict=True):
            layer.weight.copy_(torch.tensor(values).view_as(layer.weight))
    group = next(g for g in channels.groups(net, torch.zeros(1, 1, 2, 2)) if not g.frozen)
    even = {name: torch.ones_like(net.get_submodule(name).weight) for name in "012"}

    def of(criterion: str, **gathered: dict[str, Tensor]) -> list[float]:
        return Scorer(net, CRITERIA[criterion], torch.Generator(), gathered).group(group).tolist()

    assert of("l1") == [1 + 3 + 5, 2 + 4 + 6]
    assert of("l2") == [1 + 9 + 25, 4 + 16 + 36]
    assert of("fisher", square=even) == [35 / 2, 56 / 2]
    assert of("taylor", grad=even) == [1 + 5, 2 + 6]


def test_lamp_by_hand():
    """Squares 1, 4, 9 in order 9, 4, 1: 9/9, 4/13, 1/14."""
    torch.testing.assert_close(score("lamp", [[1.0, -3.0, 2.0]]), torch.tensor([[1 / 14, 1, 4 / 13]]))
    torch.testing.assert_close(score("lamp", [[0.0, 1.0], [2.0, 0.0]], channels=True), torch.tensor([1 / 5, 1.0]))


def test_lamp_keeps_the_largest_weight_of_every_layer():
    """fc2 is a thousand times smaller: l1 over all layers empties it, lamp does not."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        net[1].weight.mul_(1e-3)
    w = toy(torch.ones(2, 8), torch.tensor([0, 1]))
    left = {
        c: mo.Prune(criterion=c, granularity="weight", scope="global", ratio=0.5)
        .apply(net, w)[1]
        .weight.count_nonzero()
        for c in ("l1", "lamp")
    }
    assert left["l1"] == 0
    assert left["lamp"] > 16


def test_random_depends_on_the_seed_only():
    rows = torch.zeros(4, 3)
    first, again, other = (CRITERIA["random"](Stats(rows, torch.Generator().manual_seed(s))) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


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


def test_no_batch_norm_says_which_criteria_apply():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    with pytest.raises(
        mo.ModelOptError, match=r"'bn_scale' needs batch norm, and this model has none .*; choose from l1"
    ):
        mo.Prune(criterion="bn_scale").apply(model, w)


def test_channels_without_batch_norm_are_left_alone_and_told():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    said: list[object] = []
    STORE.clear()
    small = mo.Prune(criterion="bn_scale", ratio=0.5).apply(model, w, report=said.append)
    assert [m.out_channels for m in (small.conv1, small.conv2)] == [8, 16]
    assert small.fc1.out_features == model.fc1.out_features
    assert [str(s.text) for s in said] == ["fc1: left alone, bn_scale needs batch norm there"]


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
