"""The 4-bit kernel: two codes in a byte, the same answers as PyTorch, and a reason where it cannot run."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.models.spec import Spec
from modelopt_core.runtime import inference, int4
from modelopt_core.structure.build import build
from modelopt_core.workloads.workload import Split


def bench(width, n=64):
    inputs = torch.randn(n, width, generator=torch.Generator().manual_seed(1))
    split = Split(inputs, torch.zeros(n, dtype=torch.int64), range(n))
    return dataclasses.replace(mo.workload("digits"), train=split, val=split, test=split, data_hash=f"width {width}")


def test_two_codes_a_byte_by_hand():
    assert int4.packed(np.array([[1, 2, 15, 0]], np.uint8)).tolist() == [[0x21, 0x0F]]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"scheme": "affine"},
        {"per": "tensor"},
        {"per": "group"},
        {"per": "group", "group": 48},
        {"per": "group", "group": 16, "scheme": "affine"},
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [(100, 7), (1, 1), (16, 3), (129, 40, 10)], ids=str)
def test_answers_are_pytorchs(sizes, given):
    """Exactly those of dequantized weights, but for inputs rounded to int8: within a hundredth of the largest."""
    w, model = bench(sizes[0]), build(Spec("mlp", (("sizes", sizes),), (sizes[0],)), 3)
    small = mo.Quantize(bits=4, **given).apply(model, w)
    compiled = inference.compile(small, w)
    assert (compiled.label, compiled.integer, compiled.reasons) == ("ONNX Runtime 4-bit", True, ())
    for n in (1, 5):
        with torch.no_grad():
            expected = small(w.val.inputs[:n])
        assert (compiled(w.val.inputs[:n]) - expected).abs().max() <= 0.02 * expected.abs().max()


def test_kernels_side_by_side():
    """8-bit layers on int8, 4-bit ones on the 4-bit kernel, the rest in floats."""
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    small = mo.Quantize(bits=4, layer_bits={"fc1": 8}).apply(model, w)
    found = mo.measure(small, w, baseline=model)
    assert (found.runtime, found.score.how) == ("ONNX Runtime int8 and 4-bit", "measured")
    small = mo.Quantize(bits=4, layer_bits={"fc1": 8, "fc2": 3}).apply(model, w)
    found = mo.measure(small, w, baseline=model)
    assert (found.runtime, found.score.how) == ("ONNX Runtime int8 and 4-bit (2 of 3 layers)", "simulated")
    agreed = mo.predictions(small, w).answers == mo.predictions(small, w, runtime="eager").answers
    assert agreed.float().mean() > 0.98


@pytest.mark.parametrize(
    ("model", "given", "text"),
    [
        ("cnn", {}, "only linear layers have a 4-bit kernel"),
        ("mlp", {"per": "group", "group": 20}, "groups of 20 are no multiple of 16, the kernel's smallest block"),
    ],
)
def test_reasons(model, given, text):
    w = mo.workload("digits")
    small = mo.Quantize(bits=4, **given).apply(mo.baseline("digits", model), w)
    assert text in dict(inference.compile(small, w).reasons).values()


def test_codebooks_and_other_widths_have_no_kernel():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    for step in (mo.Quantize(bits=4, scheme="codebook"), mo.Quantize(bits=3), mo.Quantize(bits=5)):
        small = step.apply(model, w)
        assert int4.weights(small) == ({}, {})
        assert inference.compile(small, w).label == "ONNX Runtime float32"


def test_a_convolution_of_the_same_shape_is_left_alone():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Quantize(bits=4).apply(model, w)
    compiled = inference.compile(small, w)
    assert compiled.label == "ONNX Runtime 4-bit (2 of 4 layers)"
    assert isinstance(small.conv1, nn.Conv2d)
    with torch.no_grad():
        expected = small(w.val.inputs)
    assert (compiled(w.val.inputs).argmax(1) == expected.argmax(1)).float().mean() > 0.99
