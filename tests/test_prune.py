"""Pruning: by hand, against torch.nn.utils.prune, and over the edges of the ratio."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import modelopt_core as mo
from modelopt_core.prune import CRITERIA, Stats, prune_channels, prune_weights


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_l1_by_hand():
    """|w| of (1, −3, 2, −0.5): half of four weights are two, the smallest are 1 and 0.5."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -3.0], [2.0, -0.5]]))
        prune_weights(layer, 0.5, CRITERIA["l1"], False, generator())
    assert layer.weight.tolist() == [[0.0, -3.0], [2.0, -0.0]]


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.37, 0.5, 0.999])
@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_masks_are_those_of_torch(name, ratio):
    w, model = mo.workload("digits"), mo.baseline("digits", name)
    for scope in ("layer", "global"):
        ours = mo.Prune(ratio=ratio, granularity="weight", scope=scope, recovery="none").apply(model, w)
        theirs = mo.baseline("digits", name)
        parts = [(m, "weight") for m in theirs.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        if scope == "global":
            torch_prune.global_unstructured(parts, pruning_method=torch_prune.L1Unstructured, amount=ratio)
        else:
            for module, at in parts:
                torch_prune.l1_unstructured(module, at, amount=ratio)
        found = [m for m in ours.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        for (module, _), mine in zip(parts, found, strict=True):
            assert torch.equal(module.weight, mine.weight)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.5, 0.999])
def test_channels_go_for_real(scope, ratio):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Prune(ratio=ratio, scope=scope).apply(model, w)
    before, after = mo.layers(model, w.example), mo.layers(small, w.example)
    assert all(b.outputs >= a.outputs >= 1 for b, a in zip(before, after, strict=True))
    assert after[-1].outputs == 10  # the answers stay
    if ratio == 0.5 and scope == "layer":
        assert [a.outputs for a in after] == [8, 8, 16, 16, 16, 10]
        assert sum(a.macs for a in after) < 0.4 * sum(b.macs for b in before)


def test_global_keeps_one_channel_of_a_layer_that_would_empty():
    """fc1's rows are all but zero beside fc2's: at 60 % of 5 channels all three of fc1 would go."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    thin = prune_channels(net, torch.zeros(1, 2), 0.99, CRITERIA["l1"], True, generator())
    assert [m.out_features for m in thin if isinstance(m, nn.Linear)] == [1, 1, 2]


def test_all_zero_weights_are_finite():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.zero_()
        thin = prune_channels(net, torch.zeros(1, 2), 0.5, CRITERIA["l1"], True, generator())
    assert torch.isfinite(thin(torch.ones(1, 2))).all()


def test_recovery_reestimates_norms_and_none_does_not():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    raw = mo.Prune(ratio=0.4, recovery="none").apply(model, w)
    back = mo.Prune(ratio=0.4, recovery="norms").apply(model, w)
    assert all(torch.equal(a, b) for a, b in zip(raw.parameters(), back.parameters(), strict=True))
    assert not torch.equal(raw.bn1.running_mean, back.bn1.running_mean)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"ratio": 1.0}, r"Prune: ratio=1.0 is not allowed; ratio must be a number ≥ 0 and < 1"),
        ({"ratio": float("nan")}, r"ratio=nan is not allowed"),
        ({"criterion": "l3"}, r"unknown criterion 'l3'; choose from l1, random"),
        ({"granularity": "row"}, r"granularity=row is not allowed; granularity must be 'weight' or 'channel'"),
        ({"amount": 0.5}, r"Prune has no field 'amount'; its fields are ratio, criterion"),
    ],
)
def test_bad_input_is_one_line(given, text):
    with pytest.raises(mo.ModelOptError, match=text) as error:
        mo.Prune(**given)
    assert "\n" not in str(error.value)


def test_random_depends_on_the_seed_only():
    rows = torch.zeros(4, 3)
    first, again, other = (CRITERIA["random"](Stats(rows, generator(s))) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
