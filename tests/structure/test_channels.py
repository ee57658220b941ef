"""Coupled channels: a case worked by hand, then removal equals masking over every baseline architecture."""

import copy

import pytest
import torch
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.models.spec import Spec
from modelopt_core.structure import channels
from modelopt_core.structure.build import build

IMAGE = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """conv1 and conv2 are added, so their channels are coupled; a depthwise layer and two norms carry them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.fc = nn.Linear(6 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + self.bn2(self.conv2(x))
        x = nn.functional.max_pool2d(self.depthwise(x), 2)
        return self.fc(x.view(x.size(0), -1))


def seeded(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def masked(model: nn.Module, groups: list[channels.Group], keep: dict[str, torch.Tensor]) -> nn.Module:
    """The same network with the removed channels zeroed where they are made, with their biases and normalisation."""
    model = copy.deepcopy(model)
    for group in groups:
        if group.name not in keep:
            continue
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[keep[group.name]] = False
        for member in group.members:
            layer, rows = model.get_submodule(member.layer), member.places[gone].flatten()
            names = (
                ("in_proj_weight", "in_proj_bias") if isinstance(layer, nn.MultiheadAttention) else ("weight", "bias")
            )
            with torch.no_grad():
                if member.role == "out" and isinstance(layer, nn.Embedding):
                    layer.weight[:, rows] = 0
                elif member.role != "in":
                    for tensor in (getattr(layer, name, None) for name in names):
                        if tensor is not None:
                            tensor[rows] = 0
    return model


def test_two_layers_by_hand():
    """fc1 makes 3 units, fc2 reads them: rows of |w| sum to 3, 1, 5, so a third goes and it is unit 1."""
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.5], [4.0, 1.0]]))
    thin = channels.cut(net, torch.zeros(1, 2), ratio=1 / 3)
    assert thin[0].weight.tolist() == [[1.0, -2.0], [4.0, 1.0]]
    assert torch.equal(thin[2].weight, net[2].weight[:, [0, 2]])
    assert (thin[0].out_features, thin[2].in_features, net[0].out_features) == (2, 2, 3)


def test_a_sum_couples_its_terms_and_the_output_stays():
    found = channels.groups(seeded(Residual()), IMAGE[:1])
    free = [g for g in found if not g.frozen]
    assert [(g.name, g.size) for g in free] == [("conv1", 6)]
    members = {(m.layer, m.role, m.repeat) for m in free[0].members}
    assert members >= {("conv1", "out", 1), ("conv2", "out", 1), ("conv2", "in", 1), ("depthwise", "norm", 1)}
    assert ("fc", "in", 16) in members
    assert [g.frozen for g in found if g.name == "fc"] == ["it is the model's output"]


SPECS = [
    Spec("mlp", (("sizes", (64, 12, 9, 10)),), (1, 8, 8)),
    Spec("cnn", (), (1, 8, 8)),
    Spec("lenet5", (("hidden", 30), ("width1", 4), ("width2", 6)), (1, 28, 28)),
    Spec("article", (), (1, 28, 28)),
]


@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("make", [*SPECS, Residual], ids=lambda m: getattr(m, "architecture", "residual"))
def test_removal_equals_masking(make, ratio):
    model = seeded(build(make) if isinstance(make, Spec) else Residual())
    inputs = (
        torch.rand(3, *make.input_shape, generator=torch.Generator().manual_seed(2))
        if isinstance(make, Spec)
        else IMAGE
    )
    found = [g for g in channels.groups(model, inputs[:1]) if not g.frozen]
    assert found, "every baseline has channels that can go"
    keep = {g.name: channels.strongest(channels.weights(model, g).abs().sum(1), ratio) for g in found}
    before = [p.clone() for p in model.parameters()]
    thin = channels.narrow(model, found, keep)
    with torch.no_grad():
        torch.testing.assert_close(thin(inputs), masked(model, found, keep)(inputs), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(len(k) >= 1 for k in keep.values())


@pytest.mark.parametrize("spec", [Spec("bag", (), (32,), "int64"), Spec("textcnn", (), (32,), "int64")])
def test_text_models_lose_channels_and_still_run(spec):
    model = build(spec)
    thin = channels.cut(model, spec.example, ratio=0.5)
    assert sum(p.numel() for p in thin.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    assert thin(torch.randint(0, 9, (4, 32))).shape == model(torch.randint(0, 9, (4, 32))).shape


def test_spec_notes_what_is_kept_and_builds_the_same_shapes():
    model = build(Spec("cnn", (), (1, 8, 8)))
    thin = channels.cut(channels.cut(model, IMAGE[:1], 0.5), IMAGE[:1], 0.25)
    again = build(thin.spec)
    assert [p.shape for p in again.parameters()] == [p.shape for p in thin.parameters()]
    assert dict(thin.spec.kept)["conv1"] == thin.conv1.out_channels
    assert model.spec.kept == ()
    found = channels.groups(model, IMAGE[:1])
    kept = {g.name: torch.arange(g.size - (g.name == "conv1")) for g in found if not g.frozen}
    assert channels.narrow(model, found, kept).spec.kept == (("conv1", 15),)  # what lost nothing is not noted


def test_what_it_does_not_know_it_leaves_alone_and_says_why():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cumsum(self.fc1(x), dim=1)  # mixes channels
            return self.fc3(torch.relu(self.fc2(x)))

    found = {g.name: g for g in channels.groups(seeded(Odd()), torch.zeros(1, 4))}
    assert "cumsum is not known" in found["fc1"].frozen
    assert not found["fc2"].frozen
    with pytest.raises(ModelOptError, match="channels of fc1 can't be cut: cumsum is not known"):
        channels.narrow(seeded(Odd()), list(found.values()), {"fc1": torch.tensor([0])})


def test_a_layer_used_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc3(self.fc2(torch.relu(self.fc2(self.fc1(x)))))

    found = channels.groups(seeded(Twice()), torch.zeros(1, 4))
    assert all(g.frozen for g in found)
    assert channels.cut(seeded(Twice()), torch.zeros(1, 4), 0.5)(torch.zeros(3, 4)).shape == (3, 2)


def test_control_flow_is_one_sentence_with_the_remedy():
    class Cascade(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelOptError, match=r"channels of Cascade can't be traced \(.*\); prune its parts before"):
        channels.cut(Cascade(), torch.zeros(1, 2), 0.5)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2])
def test_ratio_outside_its_range(ratio):
    with pytest.raises(ModelOptError, match=rf"ratio={ratio} is not allowed; ratio must be a number ≥ 0 and < 1"):
        channels.cut(nn.Linear(2, 2), torch.zeros(1, 2), ratio)
