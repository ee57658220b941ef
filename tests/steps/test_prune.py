"""Pruning: by hand, against torch.nn.utils.prune, and over the edges of the ratio."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.events import Note, Report, silent
from modelopt_core.steps.prune import CRITERIA, Left, Plan, Scorer, prune_channels, prune_weights, sensitivity
from modelopt_core.steps.prune.masks import block_means, n_of_m
from modelopt_core.structure import channels
from modelopt_core.structure.layer_table import WEIGHTED


def scorer(model: nn.Module, criterion: str = "l1") -> Scorer:
    return Scorer(model, CRITERIA[criterion], torch.Generator().manual_seed(0))


def thinner(model: nn.Module, example: torch.Tensor, plan: Plan, report: Report = silent) -> nn.Module:
    return prune_channels(model, Left.whole(model, example), plan, scorer(model), report)[0]


def test_l1_by_hand():
    """|w| of (1, −3, 2, −0.5): half of four weights are two, the smallest are 1 and 0.5."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -3.0], [2.0, -0.5]]))
        prune_weights(layer, Plan(0.5), scorer(layer))
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
    said: list[object] = []
    thin = thinner(net, torch.zeros(1, 2), Plan(0.99, together=True), said.append)
    assert [m.out_features for m in thin if isinstance(m, nn.Linear)] == [1, 1, 2]
    assert said == [Note(f"{name}: one channel stays, a layer can't be empty") for name in ("0", "2")]


def test_all_zero_weights_are_finite():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.zero_()
        thin = thinner(net, torch.zeros(1, 2), Plan(0.5, together=True))
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
        (
            {"criterion": "l3"},
            r"unknown criterion 'l3'; choose from activation, bn_scale, fisher, fpgm, hebbian, l1",
        ),
        ({"granularity": "row"}, r"granularity=row is not allowed; granularity must be 'weight', 'n:m', 'block' or"),
        (
            {"granularity": "weight", "criterion": "fpgm"},
            r"fpgm does not go with granularity=weight; choose from l1, l2",
        ),
        ({"size": 1}, r"size=1 is not allowed; size must be a whole number ≥ 2 and ≤ 64"),
        ({"ratios": {"conv1": 1.0}}, r"ratio 1 of conv1 is not allowed; it must be ≥ 0 and < 1"),
        ({"ratios": {"conv1": float("nan")}}, r"ratios=nan is not allowed; ratios must be a finite number"),
        ({"ratios": (("a", 0.1), ("a", 0.2))}, r"ratios name a layer twice; give each layer one ratio"),
        ({"ratios": "conv1"}, r"ratios=conv1 is not allowed"),
        ({"amount": 0.5}, r"Prune has no field 'amount'; its fields are ratio, criterion"),
    ],
)
def test_bad_input_is_one_line(given, text):
    with pytest.raises(mo.ModelOptError, match=text) as error:
        mo.Prune(**given)
    assert "\n" not in str(error.value)


def test_n_of_m_by_hand():
    """2:4 over (4, 1, 3, 2) keeps 4 and 3; a tail of three keeps its two highest; 1:4 keeps one each."""
    scores = torch.tensor([[4.0, 1.0, 3.0, 2.0, 5.0, 7.0, 6.0]])
    assert (~n_of_m(scores, 2, 4)).int().tolist() == [[1, 0, 1, 0, 0, 1, 1]]
    assert (~n_of_m(scores, 1, 4)).int().tolist() == [[1, 0, 0, 0, 0, 1, 0]]


@pytest.mark.parametrize("criterion", ["l1", "hebbian", "activation"])
@pytest.mark.parametrize(
    ("ratio", "size", "pattern"), [(0.5, 4, "2:4"), (0.75, 4, "1:4"), (0.5, 8, "4:8"), (0.99, 2, "1:2")]
)
def test_n_of_m_holds_in_every_layer_along_the_inputs(criterion, ratio, size, pattern):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    step = mo.Prune(granularity="n:m", ratio=ratio, size=size, criterion=criterion)
    assert step.pattern == pattern
    thin = step.apply(model, w)
    for layer in (thin.conv2, thin.fc1, thin.fc2):  # inputs are a multiple of 8
        runs = layer.weight.movedim(1, -1).reshape(-1, size)
        assert (runs.count_nonzero(dim=1) <= int(pattern.split(":")[0])).all()
        assert (runs.count_nonzero(dim=1) > 0).all()
    assert thin.conv1.weight.any()


def test_n_of_m_keeps_one_and_says_so():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    said: list[object] = []
    STORE.clear()
    mo.Prune(granularity="n:m", ratio=0.99).apply(model, w, report=said.append)
    assert said == [Note("1:4: one of every 4 weights stays; choose a larger size to remove more")]


def test_blocks_by_hand():
    """A 3×3 matrix in blocks of 2: four of them, the last a single entry."""
    matrix = torch.tensor([[1.0, 2.0, 3.0], [5.0, 4.0, 1.0], [2.0, 4.0, 7.0]])
    assert block_means(matrix, (2, 2)).tolist() == [[3, 2], [3, 7]]
    assert block_means(matrix, (1, 2)).tolist() == [[1.5, 3], [4.5, 1], [3, 7]]
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(matrix)
        prune_weights(layer, Plan(0.25), scorer(layer), "block", (2, 2))
    assert layer.weight.tolist() == [[1, 2, 0], [5, 4, 0], [2, 4, 7]]
    with torch.no_grad():
        layer.weight.copy_(matrix)
        prune_weights(layer, Plan(1 / 3), scorer(layer), "block", (1, 2))
    assert layer.weight.tolist() == [[0, 0, 3], [5, 4, 0], [2, 4, 7]]


@pytest.mark.parametrize("granularity", ["weight", "n:m", "block"])
def test_layers_with_a_ratio_of_their_own_and_frozen_ones(granularity):
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    for scope in ("layer", "global"):
        step = mo.Prune(
            ratio=0.25, granularity=granularity, scope=scope, ratios={"fc2": 0.5, "fc3": 0.75}, frozen=("fc3",)
        )
        thin = step.apply(model, w)
        zeros = [float((layer.weight == 0).float().mean()) for layer in (thin.fc1, thin.fc2, thin.fc3)]
        assert zeros == [0.25, 0.5, 0.0]


def test_channels_with_a_ratio_of_their_own_and_frozen_ones():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    for scope in ("layer", "global"):
        step = mo.Prune(ratio=0.5, scope=scope, ratios=(("conv2", 0.25),), frozen=("fc1", "fc2"))
        thin = step.apply(model, w)
        assert [thin.conv1.out_channels, thin.conv2.out_channels, thin.fc1.out_features] == [8, 24, 32]
    same = mo.Prune(ratio=0.0).apply(model, w)
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values(), strict=True))


class Coupled(nn.Module):
    """Two layers whose outputs are added: their channels go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.a(x) + self.b(x))


def test_coupled_layers_share_a_ratio():
    net, example = Coupled(), torch.zeros(1, 2)
    thin = thinner(net, example, Plan(0.0, own={"b": 0.5}))
    assert (thin.a.out_features, thin.b.out_features, thin.c.in_features) == (2, 2, 2)
    with pytest.raises(mo.ModelOptError, match="b is coupled with a, whose ratio differs; give them one"):
        thinner(net, example, Plan(0.0, own={"a": 0.25, "b": 0.5}))
    with pytest.raises(mo.ModelOptError, match="channels of c can't be cut: it is the model's output"):
        thinner(net, example, Plan(0.0, own={"c": 0.5}))


@pytest.mark.parametrize("given", [{"ratios": {"conv9": 0.5}}, {"frozen": ("conv9",)}])
@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_an_unknown_layer_is_one_line_that_names_the_layers(given, granularity):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    with pytest.raises(
        mo.ModelOptError, match=r"unknown layer 'conv9' \(did you mean '.*'\?\); choose from conv1, conv2"
    ):
        mo.Prune(granularity=granularity, **given).apply(model, w)


def test_ratios_and_frozen_are_data():
    step = mo.Prune(ratios={"b": 0.5, "a": 0.25}, frozen=("d", "c", "d"))
    assert step.ratios == (("a", 0.25), ("b", 0.5))
    assert step.frozen == ("c", "d")
    assert mo.from_json(mo.to_json([step])) == (step,)
    assert hash(step) == hash(mo.Prune(ratios=(("a", 0.25), ("b", 0.5)), frozen=("c", "d")))


@pytest.mark.parametrize("granularity", ["channel", "weight"])
def test_sensitivity_is_what_a_real_prune_of_that_layer_costs(granularity):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    step = mo.Prune(ratio=0.5, granularity=granularity, recovery="none", frozen=("fc2",))
    found = list(sensitivity(model, w, step))
    assert [s.name for s in found] == ["conv1", "conv2", "fc1"]
    base = mo.predictions(model, w).scores.mean()
    for s in found:
        real = mo.Prune(ratio=0, granularity=granularity, recovery="none", ratios=((s.name, 0.5),)).apply(model, w)
        assert s.delta.value == pytest.approx(float(mo.predictions(real, w).scores.mean() - base), abs=1e-6)
    assert min(s.delta.value for s in found) < 0


BASELINES = [
    *(("digits", "cnn"), ("digits", "mlp"), ("docstrings", "bag"), ("docstrings", "textcnn")),
    *(pytest.param("mnist", name, marks=pytest.mark.mnist) for name in ("article", "lenet300", "lenet5")),
]


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.999])
@pytest.mark.parametrize("granularity", ["weight", "n:m", "block", "channel"])
@pytest.mark.parametrize(("workload", "name"), BASELINES)
def test_edges_of_the_ratio(workload, name, granularity, ratio):
    """What goes is what was asked for, in every layer or in all together; answers stay finite."""
    w, model = mo.workload(workload), mo.baseline(workload, name)
    for step in (mo.Prune(ratio=ratio, granularity=granularity, scope=scope) for scope in ("layer", "global")):
        thin = step.apply(model, w)
        before, after = mo.layers(model, w.example), mo.layers(thin, w.example)
        assert torch.isfinite(thin(w.val.inputs[:3])).all()
        if ratio == 0.0:
            assert after == before
        elif granularity == "channel":
            assert all(a.outputs >= 1 for a in after)
            assert ratio < 0.5 or any(a.outputs < b.outputs for a, b in zip(after, before, strict=True))
        elif granularity == "weight":
            zeros = sum(int((m.weight == 0).sum()) for m in thin.modules() if isinstance(m, WEIGHTED))
            total = sum(m.weight.numel() for m in model.modules() if isinstance(m, WEIGHTED))
            assert zeros / total == pytest.approx(ratio, abs=0.0005 if total > 10_000 else 0.001)
        else:
            assert sum(a.nonzero for a in after) <= sum(b.nonzero for b in before)


@pytest.mark.parametrize("granularity", ["weight", "n:m", "block", "channel"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_layer_frozen_leaves_everything(granularity, scope):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    step = mo.Prune(ratio=0.5, granularity=granularity, scope=scope, frozen=("conv1", "conv2", "fc1", "fc2"))
    same = step.changed(recovery="none").apply(model, w)
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values(), strict=True))


def test_sensitivity_of_a_channel_group_by_hand():
    """conv2's group, scored and cut without any step: the same drop."""
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    said = next(s for s in sensitivity(model, w, mo.Prune(ratio=0.5, recovery="none")) if s.name == "conv2")
    found = channels.groups(model, w.example)
    group = next(g for g in found if g.name == "conv2")
    into = model.conv2.weight.detach().abs().flatten(1).sum(1)  # (32,)
    out = model.fc1.weight.detach().abs().view(32, 32, 16).sum((0, 2))  # 16 positions of each channel
    kept = channels.strongest(into + out, 0.5)
    thin = channels.narrow(model, [group], {"conv2": kept})
    drop = mo.predictions(thin, w).scores.mean() - mo.predictions(model, w).scores.mean()
    assert said.layers == ("conv2",)
    assert said.delta.value == pytest.approx(float(drop), abs=1e-6)
