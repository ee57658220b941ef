"""The file that is handed out is the graph that ran: its size, its numbers, in a session that knows nothing of us."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.runtime.handout import onnx_file
from modelopt_core.runtime.inference import PREDICT_BATCH, _saturates

exact = pytest.mark.skipif(_saturates(), reason="a plain session's int8 sums saturate on this processor")


def says(path: Path, inputs: Tensor) -> Tensor:
    """What a plain session answers, batch by batch as `predictions` asks."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    runs = [session.run(None, {"inputs": part.numpy()})[0] for part in inputs.split(PREDICT_BATCH)]
    return torch.cat([torch.from_numpy(run) for run in runs])


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@exact
@pytest.mark.parametrize("name", ["cnn", "mlp"])
@pytest.mark.parametrize(("bits", "sign"), [(8, "DequantizeLinear"), (4, "MatMulNBits")])
def test_what_was_measured_is_in_the_file(name: str, bits: int, sign: str, tmp_path: Path) -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", name)
    small = mo.Quantize(bits=bits, per="group" if bits == 4 else "channel").apply(model, w)
    path = mo.export_onnx(small, w, tmp_path / "small.onnx")
    assert sign in operators(path)
    assert torch.equal(says(path, w.val.inputs), mo.predictions(small, w).outputs.logits)


@exact
def test_a_float_layer_between_integer_ones(tmp_path: Path) -> None:
    """Where a plain session does not leave it in float, the docstring's option is what it needs."""
    w = mo.workload("digits")
    small = mo.Quantize(bits=8, layer_bits=(("fc2", 32),)).apply(mo.baseline("digits", "mlp"), w)
    path = mo.export_onnx(small, w, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(
        path, providers=["CPUExecutionProvider"], disabled_optimizers=["WeightBiasQuantization"]
    )
    runs = [session.run(None, {"inputs": part.numpy()})[0] for part in w.val.inputs.split(PREDICT_BATCH)]
    expected = mo.predictions(small, w).outputs.logits
    assert torch.equal(torch.cat([torch.from_numpy(run) for run in runs]), expected)


def test_the_file_is_as_small_as_its_integers(tmp_path: Path) -> None:
    """A cnn of digits: 21,000 weights, so about 21 kB of int8, 84 kB of floats, and the names of a graph."""
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Quantize(bits=8).apply(model, w)
    weights = sum(p.numel() for p in small.parameters())
    ran, floats = (mo.export_onnx(small, w, tmp_path / p, precision=p).stat().st_size for p in ("as_run", "float"))
    assert weights < ran < 1.6 * weights
    assert floats > 4 * weights
    assert floats == mo.export_onnx(model, w, tmp_path / "model.onnx").stat().st_size


def test_in_floats_the_same_network(tmp_path: Path) -> None:
    w = mo.workload("digits")
    small = mo.Quantize(bits=8).apply(mo.baseline("digits", "cnn"), w)
    path = mo.export_onnx(small, w, tmp_path / "float.onnx", precision="float")
    assert "DequantizeLinear" not in operators(path)
    torch.testing.assert_close(says(path, w.val.inputs), small(w.val.inputs), atol=1e-4, rtol=1e-4)


def cascade(w: mo.Workload) -> nn.Module:
    return mo.Cascade(threshold=0.9).apply([mo.baseline("digits", name) for name in ("mlp", "cnn")], w)


def exits(w: mo.Workload) -> nn.Module:
    return mo.Cascade(stages="exits").apply([mo.baseline("digits", "cnn")], w)


def pipeline(w: mo.Workload) -> nn.Module:
    return mo.Pipeline().apply([mo.baseline("digits", n) for n in ("groups", "expert-1", "expert-2", "expert-3")], w)


@exact
@pytest.mark.parametrize("make", [cascade, exits, pipeline])
def test_a_composite_as_the_one_graph_that_ran(make: object, tmp_path: Path) -> None:
    w = mo.workload("digits")
    small = mo.Quantize(bits=8).apply(make(w), w)  # type: ignore[operator]
    path = mo.export_onnx(small, w, tmp_path / "whole.onnx")
    ran = mo.compile(small, w)
    assert ran.integer
    inputs = w.val.inputs[:100]
    assert torch.equal(says(path, inputs), ran(inputs))
    weights = sum(p.numel() for p in small.parameters())
    assert path.stat().st_size < len(onnx_file(small, w, "float")) - 1.5 * weights


def test_a_precision_that_is_not_there() -> None:
    w = mo.workload("digits")
    with pytest.raises(ModelOptError, match="unknown precision 'int8'; choose from as_run, float"):
        onnx_file(mo.baseline("digits", "mlp"), w, "int8")
