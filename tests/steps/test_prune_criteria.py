"""Every criterion on numbers small enough for paper, and what is gathered for it against PyTorch's own gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.steps.prune import CRITERIA, Scorer, Stats, stats
from modelopt_core.structure import channels
from modelopt_core.workloads.workload import Classification, Split


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
    rows = score("lamp", [[3.0, 4.0], [4.5, 0.0]], channels=True)  # squared norms 25 and 20.25
    torch.testing.assert_close(rows, torch.tensor([1.0, 20.25 / 45.25]))


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
