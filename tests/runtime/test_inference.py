"""What compile promises: the same answers as PyTorch, on integers only where the weights are integers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.models import weight_grid
from modelopt_core.models.spec import Spec
from modelopt_core.models.weight_grid import Grid
from modelopt_core.runtime import inference, int8, onnx_export
from modelopt_core.structure.build import build
from modelopt_core.workloads.workload import Split, Workload
from tests.runtime.test_onnx_export import SPECS, each_architecture, inputs_for

INTEGER_OPERATORS = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger"}
FLOAT_OPERATORS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def bench(spec: Spec, n: int = 64) -> Workload:
    """A workload whose inputs suit the spec; only its train inputs are ever looked at."""
    split = Split(inputs_for(spec, n), torch.zeros(n, dtype=torch.int64), range(n))
    return dataclasses.replace(mo.workload("digits"), name=spec.architecture, train=split, val=split, test=split)


def on_grid(model: nn.Module, kind: str = "symmetric", per_channel: bool = True, bits: int = 8) -> nn.Module:
    """Round every weight of a layer to the nearest point of a grid, without the step that does so elsewhere."""
    for module in model.modules():
        if isinstance(module, int8.QUANTIZED):
            weight = module.weight.detach()
            rows = weight.flatten(1) if per_channel else weight.reshape(1, -1)
            if kind == "symmetric":
                half = 2 ** (bits - 1) - 1
                scale = rows.abs().amax(1) / half
                on = Grid(scale, torch.full_like(scale, half), 2 * half + 1)
            else:
                low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
                scale = (high - low) / (2**bits - 1)
                on = Grid(scale, torch.round(-low / scale), 2**bits)
            with torch.no_grad():
                module.weight.copy_(on.values(on.nearest(weight)))
            weight_grid.attach(module, on)
    return model


def lively_norms(model: nn.Module) -> nn.Module:
    """Batch norms that do something, among them negative and zero factors."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.normal_(generator=generator)
                module.weight[0] = 0.0
                module.bias.normal_(generator=generator)
                module.running_mean.normal_(generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
    return model


def operators(model: nn.Module, workload: Workload, path: Path) -> list[str]:
    """Operators of the graph that ONNX Runtime really runs."""
    weights, _ = int8.integer_weights(model)
    graph = onnx_export.onnx_graph(model, workload.example)
    graph, _ = int8.integer_graph(graph, weights, lambda g, n: inference._activations(g, n, workload))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        graph.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=inference.UNWANTED
    )
    return [node.op_type for node in onnx.load(path / "optimized.onnx").graph.node]


def relative_error(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).norm() / expected.norm())


def test_a_dot_product_by_hand() -> None:
    """w = (1, −2)/2 on a grid of scale 1/2; x = (4, 2) in [0, 4]: 4·0.5 − 2·1 + 1 = 1."""
    spec = Spec("mlp", (("sizes", (2, 1)),), (2,))
    model = build(spec)
    with torch.no_grad():
        model.fc1.weight.copy_(torch.tensor([[0.5, -1.0]]))  # type: ignore[union-attr, operator]
        model.fc1.bias.fill_(1.0)  # type: ignore[union-attr, operator]
    weight_grid.attach(model.fc1, Grid(torch.tensor([0.5]), torch.tensor([127.0]), 255))  # type: ignore[arg-type]
    inputs = torch.tensor([[4.0, 2.0], [0.0, 0.0]])
    workload = dataclasses.replace(mo.workload("digits"), train=Split(inputs, torch.zeros(2), range(2)))
    weights, reasons = int8.integer_weights(model)
    assert weights["fc1"].codes.tolist() == [[1, -2]]
    assert weights["fc1"].zero_point.tolist() == [0]
    assert reasons == {}
    compiled = inference.compile(model, workload)
    assert compiled.label == "ONNX Runtime int8"
    torch.testing.assert_close(compiled(inputs), torch.tensor([[1.0], [1.0]]), atol=4 / 255, rtol=0)


@each_architecture
@pytest.mark.parametrize("where", ["onnx", "eager"])
def test_float_logits_are_pytorchs(spec: Spec, where: str) -> None:
    model, inputs = build(spec), inputs_for(spec, 5)
    compiled = inference.compile(model, bench(spec), runtime=where)
    assert (compiled.runtime, compiled.integer) == (where, False)
    assert compiled.label == {"onnx": "ONNX Runtime float32", "eager": "PyTorch eager float32"}[where]
    torch.testing.assert_close(compiled(inputs), model(inputs).detach())
    torch.testing.assert_close(compiled(inputs.numpy()), model(inputs).detach())


@each_architecture
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", ["symmetric", "affine"])
def test_integer_logits_are_close(spec: Spec, kind: str, per_channel: bool) -> None:
    model, inputs = on_grid(lively_norms(build(spec)), kind, per_channel), inputs_for(spec, 64)
    compiled = inference.compile(model, bench(spec))
    assert compiled.integer
    assert relative_error(compiled(inputs), model(inputs).detach()) < 0.03


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.architecture)
def test_integer_kernels_really_run(spec: Spec, tmp_path: Path) -> None:
    model = on_grid(lively_norms(build(spec)))
    layers = sum(isinstance(module, int8.QUANTIZED) for module in model.modules())
    ran = operators(model, bench(spec), tmp_path)
    assert sum(name in INTEGER_OPERATORS for name in ran) == layers
    assert not FLOAT_OPERATORS & set(ran)


class Sequence(nn.Module):
    """A linear layer over (b, length, width), which ONNX writes as a MatMul, and one without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.last = nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))).mean(1)


@pytest.mark.parametrize("kind", ["symmetric", "affine"])
def test_linear_layers_over_sequences(kind: str, tmp_path: Path) -> None:
    torch_spec = Spec("sequence", (), (5, 8))
    model, workload = on_grid(Sequence(), kind), bench(torch_spec)
    inputs = inputs_for(torch_spec, 9)
    assert relative_error(inference.compile(model, workload)(inputs), model(inputs).detach()) < 0.03
    assert not FLOAT_OPERATORS & set(operators(model, workload, tmp_path))


def test_only_layers_on_an_eight_bit_grid_are_integer(tmp_path: Path) -> None:
    spec = SPECS[2]
    model = on_grid(build(spec))
    with torch.no_grad():
        model.conv2.weight.add_(0.01)  # type: ignore[union-attr, operator]
    compiled = inference.compile(model, bench(spec))
    assert compiled.label == "ONNX Runtime int8 (3 of 4 layers)"
    assert dict(compiled.reasons) == {"conv2": "its weights do not lie on an 8-bit grid"}
    ran = operators(model, bench(spec), tmp_path)
    assert sum(name in INTEGER_OPERATORS for name in ran) == 3
    assert sum(name in FLOAT_OPERATORS for name in ran) == 1
    inputs = inputs_for(spec, 33)
    assert relative_error(compiled(inputs), model(inputs).detach()) < 0.03


def test_why_a_layer_stays_float() -> None:
    spec = SPECS[2]
    _, reasons = int8.integer_weights(on_grid(build(spec), "affine"))
    assert reasons == dict.fromkeys(
        ("conv1", "conv2"), "convolutions have no integer kernel for a zero point per channel"
    )
    _, reasons = int8.integer_weights(on_grid(build(spec), bits=4))
    assert set(reasons.values()) == {"its weights do not lie on an 8-bit grid"}
    model = build(SPECS[0])
    half = Grid(torch.tensor([0.01]), torch.tensor([127.5]), 256)  # the article's example: no code for zero
    with torch.no_grad():
        model.fc1.weight.copy_(half.values(half.nearest(model.fc1.weight)))  # type: ignore[union-attr, operator, arg-type]
    weight_grid.attach(model.fc1, half)  # type: ignore[arg-type]
    assert int8.integer_weights(model)[1]["fc1"] == "its zero point is no integer"
    assert inference.compile(model, bench(SPECS[0])).label == "ONNX Runtime float32"


def test_a_bias_that_int32_cannot_hold_keeps_its_layer_in_float() -> None:
    spec = SPECS[1]
    model = build(spec)
    with torch.no_grad():
        model.fc2.weight.mul_(1e-12)  # type: ignore[union-attr, operator]
        model.fc2.bias.fill_(1e3)  # type: ignore[union-attr, operator]
        model.fc1.weight[0] = 0.0  # type: ignore[union-attr, operator]
    on_grid(model)
    model.fc1.weight_scale[0] = 1e-20  # type: ignore[union-attr, operator]
    inputs = inputs_for(spec, 20)
    compiled = inference.compile(model, bench(spec))
    assert compiled.label == "ONNX Runtime int8 (3 of 4 layers)"
    assert dict(compiled.reasons) == {"fc2": "its activations or its bias do not fit"}
    assert relative_error(compiled(inputs), model(inputs).detach()) < 1e-3


def test_a_model_that_overflows_is_refused() -> None:
    spec = SPECS[0]
    model = on_grid(build(spec))
    with torch.no_grad():
        model.fc2.bias.fill_(3e38)  # type: ignore[union-attr, operator]
        model.fc1.bias.fill_(3e38)  # type: ignore[union-attr, operator]
        model.fc2.weight.fill_(3.0)  # type: ignore[union-attr, operator]
    with pytest.raises(
        mo.ModelOptError, match="Sequential answers input 0 with inf at best; its weights are too large"
    ):
        inference.compile(model, bench(spec))


@pytest.mark.parametrize("n", [1, 249, 250, 251, 500])
def test_predict_is_independent_of_threads(n: int) -> None:
    spec = SPECS[0]
    model, inputs = build(spec), inputs_for(spec, n)
    compiled = inference.compile(model, bench(spec))
    one, two = (inference.predict(compiled, inputs, threads=k) for k in (1, 2))
    assert torch.equal(one, two)
    torch.testing.assert_close(two, model(inputs).detach())


def test_two_builds_say_the_same_bits() -> None:
    spec = SPECS[1]
    model, inputs = on_grid(build(spec)), inputs_for(spec, 40)
    first, second = (inference.compile(model, bench(spec))(inputs) for _ in range(2))
    assert torch.equal(first, second)


def test_calibration_sees_train_examples_only() -> None:
    spec = SPECS[0]
    workload = bench(spec)
    poisoned = Split(torch.full_like(workload.val.inputs, 1e6), workload.val.targets, workload.val.ids)
    model, inputs = on_grid(build(spec)), inputs_for(spec, 30)
    clean = inference.compile(model, workload)(inputs)
    assert torch.equal(
        clean, inference.compile(model, dataclasses.replace(workload, val=poisoned, test=poisoned))(inputs)
    )
    assert not torch.equal(clean, inference.compile(model, dataclasses.replace(workload, train=poisoned))(inputs))


def test_the_model_is_not_touched() -> None:
    model = on_grid(build(SPECS[1])).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for where in inference.RUNTIMES:
        inference.compile(model, bench(SPECS[1]), runtime=where)(inputs_for(SPECS[1], 2))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_eager_sets_its_threads_back() -> None:
    before = torch.get_num_threads()
    compiled = inference.compile(build(SPECS[0]), bench(SPECS[0]), runtime="eager", threads=before + 1)
    compiled(inputs_for(SPECS[0], 1))
    assert torch.get_num_threads() == before


def test_the_probe_of_the_processor_knows_both_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, product: int) -> None:
            self.product = product

        def run(self, _names: object, _given: object) -> list[np.ndarray]:
            return [np.full((1, 16), self.product)]

    for product, answer in ((64 * 255 * 127, False), (64 * 2**14, True)):
        monkeypatch.setattr(inference, "_session", lambda *_a, product=product: Session(product))
        assert inference._saturates.__wrapped__() is answer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "onyx"}, r"unknown runtime 'onyx' \(did you mean 'onnx'\?\); choose from eager, onnx"),
        ({"device": "tpu"}, r"device 'tpu' is not there for runtime 'onnx'; choose from cpu"),
        ({"runtime": "eager", "device": "tpu"}, r"device 'tpu' is not there for runtime 'eager'; choose from cpu"),
        ({"threads": 0}, r"threads is 0; give a whole number from 1 up"),
        ({"threads": True}, r"threads is True; give a whole number from 1 up"),
    ],
)
def test_bad_requests(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ModelOptError, match=message):
        inference.compile(build(SPECS[0]), bench(SPECS[0]), **arguments)  # type: ignore[arg-type]


def test_no_timing_is_promised_but_every_label_is_measured() -> None:
    """The public name, on a trained baseline: integers agree with floats on nearly every val example."""
    workload = mo.workload("digits")
    model = mo.baseline("digits", "cnn")
    inputs = workload.val.inputs
    exact = mo.compile(model, workload)(inputs).argmax(1)
    small = mo.compile(on_grid(model), workload)
    assert small.label == "ONNX Runtime int8"
    assert float((small(inputs).argmax(1) == exact).float().mean()) > 0.98
