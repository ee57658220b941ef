"""What comes before and after rounding: norms folded, ranges equalised, means given back, activations, training."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.models import activation_points, weight_grid
from modelopt_core.models.weight_grid import Grid
from modelopt_core.runtime import onnx_export
from modelopt_core.steps.quantize.prepare import equalise, fold_norms, norms
from modelopt_core.structure.layer_inputs import sample


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Depthwise(nn.Sequential):
    """1×1, depthwise, 1×1 with batch norms, then pooling and a linear layer: as in MobileNet."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 1, bias=bias), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6, bias=bias), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 4, 1, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.2, 2.0, generator=generator)
            for layer in (self[0], self[3], self[6]):
                layer.weight.normal_(generator=generator)
                layer.weight.mul_(10 ** (2 * torch.rand(len(layer.weight), 1, 1, 1, generator=generator)))
        self.eval()


@torch.no_grad()
def test_folding_by_hand():
    """y = 2x through a norm with mean 1, variance 4 − ε, γ = 3, β = 5: 3 (2x − 1) / 2 + 5 = 3x + 3.5."""
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).eval()
    for tensor, value in zip(net.state_dict().values(), (2, 0, 3, 5, 1, 4 - net[1].eps, 0), strict=True):
        tensor.fill_(value)
    assert list(norms(net)) == [("0", "1")]
    fold_norms(net)
    assert (net[0].weight.item(), net[0].bias.item()) == pytest.approx((3, 3.5))
    assert net(torch.tensor([[2.0]])).item() == pytest.approx(9.5)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prepare", [fold_norms, lambda m: (fold_norms(m), equalise(m))], ids=["fold", "equalise"])
def test_answers_stay(prepare, bias):
    for net, x in (
        (Depthwise(bias), drawn(3, 1, 8, 8)),
        (copy.deepcopy(mo.baseline("digits", "cnn")), drawn(3, 1, 8, 8)),
    ):
        before = net(x)
        prepare(net)
        torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


@torch.no_grad()
def test_ranges_are_equal_afterwards():
    """A channel's largest weight where it is made and where it is read, depthwise on both sides among them."""
    net = Depthwise()
    fold_norms(net)
    equalise(net)
    makers = [net[i].weight.flatten(1).abs().amax(1) for i in (0, 3, 6)]
    linear = net[10].weight.view(10, 4, 9).abs().amax(dim=(0, 2))  # channels, then positions
    readers = [net[3].weight.flatten(1).abs().amax(1), net[6].weight.abs().amax(dim=(0, 2, 3)), linear]
    for made, read in zip(makers, readers, strict=True):
        torch.testing.assert_close(made, read, rtol=5e-3, atol=0)


@torch.no_grad()
def test_a_channel_that_does_nothing_is_left_alone():
    net = Depthwise()
    net[3].weight[2] = 0
    fold_norms(net)
    equalise(net)
    assert all(t.isfinite().all() for t in net.state_dict().values())


def test_means_come_back():
    """The means of every layer's outputs on the same examples: where nothing else changed, they are the old ones."""
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    for step, off in ((mo.Quantize(bits=2, recovery="bias"), 1e-3), (mo.Quantize(bits=2), None)):
        small, shift = step.apply(model, w), []
        inputs = w.train.inputs[sample(len(w.train), 512)]
        for name in ("bn1", "bn2", "fc1", "fc2"):
            found = [outputs(m, name, inputs).transpose(0, 1).flatten(1).mean(dim=1) for m in (model, small)]
            shift.append(float((found[0] - found[1]).abs().max()))
        assert (max(shift) < off) if off else (max(shift) > 0.1)


def outputs(model, name, inputs):
    kept = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, args, y: kept.append(y.clone()))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("levels", [4, 16, 255, 256])
def test_activations_by_hand(levels):
    """Scale 0.5, zero point 1: −0.5 … in half steps; a gradient passes inside."""
    layer = nn.Linear(3, 3, bias=False)
    layer.weight = nn.Parameter(torch.eye(3))
    activation_points.attach(layer, Grid(torch.tensor([0.5]), torch.tensor([1.0]), levels))
    activation_points.attach(layer, Grid(torch.tensor([0.5]), torch.tensor([1.0]), levels))  # once, not twice
    x = torch.tensor([[-3.0, 0.3, 1000.0]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[-0.5, 0.5, (levels - 2) * 0.5]]
    y.sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 0.0]]
    assert len(layer._forward_pre_hooks) == 1


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_activations_are_the_same_in_onnx_and_in_a_file(bits, name, tmp_path):
    """PyTorch's fake quantization, ONNX Runtime's QDQ pairs on float kernels, and the model out of a file."""
    import onnxruntime

    w, model = mo.workload("digits"), mo.baseline("digits", name)
    small = mo.Quantize(bits=6, activations=bits, observer="mse").apply(model, w)
    x = w.val.inputs[:50]
    with torch.no_grad():
        expected = small(x)
    assert (expected - model(x)).abs().max() > 1e-3
    again = mo.load(mo.save(small, tmp_path / "small.mopt"))
    assert activation_points.noted(again) == activation_points.noted(small) != {}
    with torch.no_grad():
        assert torch.equal(again(x), expected)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(onnx_export.onnx_bytes(small, w.example), options, ["CPUExecutionProvider"])
    found = session.run(None, {onnx_export.INPUT: x.numpy()})[0]
    near = np.abs(found - expected.numpy()).max(axis=1) < 1e-3
    assert near.mean() > 0.9, "a value halfway between two points may go either way"


def test_integer_kernels_take_the_stored_ranges():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    for bits in (8, 5):
        small = mo.Quantize(bits=8, activations=bits).apply(model, w)
        ours, theirs = mo.predictions(small, w), mo.predictions(small, w, runtime="eager")
        assert (ours.compiled, ours.integer) == ("ONNX Runtime int8", True)
        assert (ours.answers == theirs.answers).float().mean() > 0.99
        spread = theirs.outputs.logits.abs().max()
        assert (ours.outputs.logits - theirs.outputs.logits).abs().median() < 0.01 * spread


@pytest.mark.parametrize("stored", [(0, 0, 4), (1.0, 4, 4), (1.0, 0, 300), (float("nan"), 0, 4)], ids=str)
def test_a_file_cannot_bring_absurd_activations(stored):
    with pytest.raises(mo.ModelOptError, match="are no grid for 'fc1'"):
        activation_points.restore(copy.deepcopy(mo.baseline("digits", "mlp")), {"fc1": stored})


@pytest.mark.parametrize("given", [{}, {"scheme": "codebook"}, {"activations": 4}], ids=str)
@pytest.mark.parametrize("recovery", ["train", "lsq"])
def test_training_ends_on_points(recovery, given):
    """Weights lie on their points, zeros that pruning made stay, val is no worse, codes and file agree."""
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    pruned = mo.Prune(ratio=0.5, granularity="weight").apply(model, w)
    step = mo.Quantize(bits=3, observer="mse", **given)
    plain, trained = step.apply(pruned, w), step.changed(recovery=recovery, epochs=2).apply(pruned, w)
    assert [n for n, _ in trained.named_parameters()] == [n for n, _ in plain.named_parameters()]
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.Linear):
            found = weight_grid.codes(trained.get_submodule(name))
            assert found is not None
            assert (trained.get_submodule(name).weight[layer.weight == 0] == 0).all()
            moved = getattr(trained.get_submodule(name), "weight_scale", None)
            if recovery == "train" and moved is not None:
                torch.testing.assert_close(moved, plain.get_submodule(name).weight_scale)
    scores = [mo.predictions(m, w, runtime="eager").scores.mean() for m in (plain, trained)]
    assert scores[1] >= scores[0] - 1e-6
    assert mopt.sizes(trained).size_bytes < 1.2 * mopt.sizes(plain).size_bytes


def test_bits_per_layer():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    step = mo.Quantize(bits=4, layer_bits={"fc3": 32, "fc1": 2})
    assert step.layer_bits == (("fc1", 2), ("fc3", 32))
    assert mo.from_json(mo.to_json([step])) == (step,)
    small = step.apply(model, w)
    assert [layer.levels for layer in mo.layers(small, w.example)] == [3, 15, None]
    assert torch.equal(small.fc3.weight, model.fc3.weight)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"layer_bits": {"fc1": 9}}, r"Quantize: 9 bits for fc1 are not allowed; choose from 1 to 8, 16 and 32"),
        ({"layer_bits": (("a", 2), ("a", 3))}, r"layer_bits name a layer twice; give each layer one number of bits"),
        ({"activations": 1}, r"activations=1 is not allowed; choose 2 to 8 bits, or 0 for none"),
        ({"activations": 9}, r"activations=9 is not allowed; activations must be a whole number ≥ 0 and ≤ 8"),
    ],
)
def test_bad_input_is_one_line(given, text):
    with pytest.raises(mo.ModelOptError, match=text):
        mo.Quantize(**given)


def test_a_layer_that_is_not_there():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    with pytest.raises(mo.ModelOptError, match=r"unknown layer 'fc9' .*choose from fc1, fc2, fc3"):
        mo.Quantize(layer_bits={"fc9": 2}).apply(model, w)
