"""Quantization: a grid worked by hand, PyTorch's own fake quantization as the reference, and the edges."""

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core import grid
from modelopt_core.events import silent
from modelopt_core.quantize import quantize_tensor


def quantize(weight, bits, scheme="symmetric", per="tensor"):
    generator = torch.Generator().manual_seed(0)
    return quantize_tensor(weight, bits, scheme, per, "absmax", "nearest", generator, silent)


def test_two_bits_by_hand():
    """Symmetric, 2 bits: three levels −1, 0, 1 times scale 0.8; −0.5 is nearer to −0.8 than to 0."""
    values, lattice = quantize(torch.tensor([[0.8, -0.5, 0.3, 0.39]]), 2)
    assert (lattice.levels, lattice.zero_point.tolist()) == (3, [1.0])
    torch.testing.assert_close(lattice.scale, torch.tensor([0.8]))
    torch.testing.assert_close(values, torch.tensor([[0.8, -0.8, 0.0, 0.0]]))


def test_affine_by_hand():
    """Affine, 2 bits, −1 … 2: four levels, scale 1, zero point 1."""
    values, lattice = quantize(torch.tensor([[-1.0, 0.4, 0.6, 2.0]]), 2, "affine")
    assert (lattice.levels, lattice.scale.tolist(), lattice.zero_point.tolist()) == (4, [1.0], [1.0])
    assert values.tolist() == [[-1.0, 0.0, 1.0, 2.0]]


def test_one_bit_is_plus_or_minus():
    values, lattice = quantize(torch.tensor([[0.8, -0.5, 0.3]]), 1)
    assert lattice.levels == 2
    torch.testing.assert_close(values.abs(), torch.full((1, 3), 0.8))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 2, 3, 3)])
def test_equals_torch_fake_quantize(bits, shape):
    """The same scale and zero point through torch's own kernels, per tensor and per channel, symmetric and affine."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    for scheme in ("symmetric", "affine"):
        values, g = quantize(weight, bits, scheme, "tensor")
        reference = torch.fake_quantize_per_tensor_affine(weight, float(g.scale), int(g.zero_point), 0, g.levels - 1)
        torch.testing.assert_close(values, reference, atol=1e-6, rtol=1e-5)
        values, g = quantize(weight, bits, scheme, "channel")
        reference = torch.fake_quantize_per_channel_affine(weight, g.scale, g.zero_point.int(), 0, 0, g.levels - 1)
        torch.testing.assert_close(values, reference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_and_zero_tensors(bits, scheme, value):
    values, _ = quantize(torch.full((2, 3), value), bits, scheme, "channel")
    assert torch.isfinite(values).all()
    if value or bits > 1 or scheme == "affine":
        torch.testing.assert_close(values, torch.full((2, 3), value))


@pytest.mark.parametrize("bits", range(1, 9))
def test_model_lies_on_its_grid_and_error_shrinks(bits):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Quantize(bits=bits).apply(model, w)
    for name, layer in small.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            found = grid.codes(layer)
            assert found is not None, name
            codes, lattice = found
            assert torch.equal(lattice.values(codes), layer.weight)
            assert len(layer.weight.unique()) <= lattice.levels * len(layer.weight)
            error = (layer.weight - model.get_submodule(name).weight).abs().amax()
            assert error <= lattice.scale.max() / (2 if bits > 1 else 1) * 1.001


def test_a_weight_changed_since_is_no_longer_on_its_grid():
    layer = nn.Linear(2, 2)
    values, lattice = quantize(layer.weight.detach(), 4)
    with torch.no_grad():
        layer.weight.copy_(values)
    grid.attach(layer, lattice)
    assert grid.codes(layer) is not None
    with torch.no_grad():
        layer.weight.add_(0.01)
    assert grid.codes(layer) is None


def test_pruned_after_one_bit_keeps_a_code_for_zero():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    stages = mo.run((mo.Quantize(bits=1), mo.Prune(ratio=0.5, granularity="weight")), [model], w)
    codes, lattice = grid.codes(stages[-1].model.fc1)
    assert (codes == lattice.levels).float().mean() == pytest.approx(0.5, abs=0.01)


def test_channels_cut_after_quantization_stay_on_their_grid():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Prune(ratio=0.5).apply(mo.Quantize(bits=4).apply(model, w), w)
    for layer in small.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            assert grid.codes(layer) is not None
            assert len(layer.weight_scale) == len(layer.weight)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"bits": 0}, r"Quantize: bits=0 is not allowed; bits must be a whole number ≥ 1 and ≤ 8"),
        ({"bits": 9}, r"bits=9 is not allowed"),
        ({"bits": 2.5}, r"bits=2.5 is not allowed"),
        ({"observer": "max"}, r"unknown observer 'max'.*choose from absmax"),
        ({"rounding": "up"}, r"unknown rounding 'up'; choose from nearest"),
        ({"per": "row"}, r"per=row is not allowed; per must be 'tensor' or 'channel'"),
    ],
)
def test_bad_input_is_one_line(given, text):
    with pytest.raises(mo.ModelOptError, match=text):
        mo.Quantize(**given)
