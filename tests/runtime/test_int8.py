"""Integers by hand: ranges that lack zero, against ONNX Runtime's own, and weights that go back to floats."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from onnxruntime.quantization.quant_utils import compute_scale_zp
from torch import Tensor

from modelopt_core.runtime import inference, int8
from modelopt_core.runtime.int8 import Weight
from modelopt_core.structure.build import build
from modelopt_core.workloads.workload import Workload
from tests.runtime.test_inference import bench, on_grid, relative_error
from tests.runtime.test_onnx_export import SPECS, inputs_for


@pytest.mark.parametrize(
    ("values", "scale", "zero_point"),
    [
        ([2.0, 5.1], 5.1 / 255, 0),  # the grid begins at zero, not at 2
        ([-5.1, -2.0], 5.1 / 255, 255),
        ([-1.0, 1.55], 0.01, 100),
        ([-0.006, 2.544], 0.01, 1),
        ([0.0, 0.0], 1.0, 0),
        ([1e-3, 1e-3], 1e-3 / 255, 0),
    ],
)
def test_a_range_is_stretched_to_zero_by_hand(values, scale, zero_point) -> None:
    found = int8._uint8_grid(np.array(values, np.float32))
    assert found == (pytest.approx(scale), zero_point)


@pytest.mark.parametrize("shift", [-3.0, -0.7, 0.0, 0.4, 3.0])
def test_ranges_are_onnx_runtimes(shift) -> None:
    values = (np.random.default_rng(1).random(100) + shift).astype(np.float32)
    zero_point, scale = compute_scale_zp(values.min(), values.max(), np.array(0), np.array(255))
    found = int8._uint8_grid(values)
    assert found == (pytest.approx(float(scale), rel=1e-6), int(zero_point))


def trained_on(workload: Workload, inputs: Tensor) -> Workload:
    return dataclasses.replace(workload, train=dataclasses.replace(workload.train, inputs=inputs))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_inputs_that_are_never_zero_keep_their_answers(sign) -> None:
    """Inputs all above 4, or all below −4: the furthest of them must not be clipped."""
    spec = SPECS[0]
    model, inputs = on_grid(build(spec)), sign * (4 + inputs_for(spec, 64).abs())
    compiled = inference.compile(model, trained_on(bench(spec), inputs))
    assert compiled.label == "ONNX Runtime int8"
    assert relative_error(compiled(inputs), model(inputs).detach()) < 0.03


def test_floats_by_hand() -> None:
    """(codes − zero point) · scale, row by row: (3 − 1) · 0.5 = 1; (−128 + 2) · 2 = −252."""
    codes = np.array([[3, 1], [-128, 0]], np.int8)
    weight = Weight(codes, np.array([0.5, 2.0], np.float32), np.array([1, -2], np.int8))
    assert weight.floats.tolist() == [[1, 0], [-252, 4]]
    kernel = Weight(codes[:, :, None], weight.scale, weight.zero_point)
    assert kernel.floats.tolist() == [[[1], [0]], [[-252], [4]]]


@pytest.mark.parametrize("per_channel", [True, False])
def test_an_affine_layer_whose_bias_no_int32_holds_goes_back_to_its_floats(per_channel) -> None:
    """Weights above zero, so that their zero point in int8 is −128, and a unit whose bias of −1e12 keeps it at zero."""
    spec = SPECS[0]
    model, inputs = build(spec), inputs_for(spec, 64)
    with torch.no_grad():
        model.fc1.weight.abs_()  # type: ignore[union-attr, operator]
        model.fc1.bias[0] = -1e12  # type: ignore[union-attr, operator, index]
    on_grid(model, "affine", per_channel)
    found = int8.integer_weights(model)[0]["fc1"]
    assert set(found.zero_point.tolist()) == {-128}
    torch.testing.assert_close(torch.from_numpy(found.floats), model.fc1.weight.detach())  # type: ignore[union-attr]
    compiled = inference.compile(model, trained_on(bench(spec), inputs))
    assert dict(compiled.reasons) == {"fc1": "its activations or its bias do not fit"}
    assert relative_error(compiled(inputs), model(inputs).detach()) < 0.03
