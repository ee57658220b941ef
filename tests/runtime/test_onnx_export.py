"""A graph says what PyTorch says, traced afresh or filled from a template."""

from __future__ import annotations

import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.soak import resident_mb
from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic
from modelopt_core.models.spec import Spec
from modelopt_core.runtime import onnx_export
from modelopt_core.structure.build import build
from modelopt_core.studies import memory
from tests.waiting import LIMIT_S, join

SPECS = [
    Spec("mlp", (("sizes", (64, 7, 10)),), (1, 8, 8)),
    Spec("cnn", (), (1, 8, 8)),
    Spec("lenet5", (("hidden", 7), ("width1", 3), ("width2", 5)), (1, 28, 28)),
    Spec("article", (("width1", 3),), (1, 28, 28)),
    Spec("bag", (("vocabulary", 50),), (12,), "int64"),
    Spec("textcnn", (("filters", 9), ("vocabulary", 50)), (12,), "int64"),
]
each_architecture = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.architecture)


def inputs_for(spec: Spec, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    if spec.input_dtype == "int64":
        return torch.randint(0, 50, (n, *spec.input_shape), generator=generator)
    return torch.rand(n, *spec.input_shape, generator=generator)


def says(graph: bytes, inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


class Affine(nn.Module):
    """2x + 1, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        with torch.no_grad():
            self.linear.weight.fill_(2.0)
            self.linear.bias.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Branching(nn.Module):
    """Python decides by the data: no trace can hold it, and fft has no word in ONNX."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real


def test_two_x_plus_one() -> None:
    graph = onnx_export.onnx_bytes(Affine(), torch.zeros(1, 1))
    assert says(graph, torch.tensor([[3.0], [-1.0]])).tolist() == [[7.0], [-1.0]]


@each_architecture
@pytest.mark.parametrize("n", [1, 7])
def test_predictions_equal_pytorchs(spec: Spec, n: int) -> None:
    model, inputs = build(spec), inputs_for(spec, n)
    torch.testing.assert_close(says(onnx_export.onnx_bytes(model, spec.example), inputs), model(inputs))


@each_architecture
def test_a_filled_template_equals_a_fresh_trace(spec: Spec) -> None:
    first, second = build(spec, seed=1), build(spec, seed=2)
    onnx_export.onnx_bytes(first, spec.example)
    filled = onnx.load_model_from_string(onnx_export.onnx_bytes(second, spec.example))
    del second.__dict__["spec"]
    fresh = onnx.load_model_from_string(onnx_export.onnx_bytes(second, spec.example))
    assert filled == fresh


def test_equal_tensors_stay_apart() -> None:
    """The exporter merges equal initializers; filled again with different ones they must differ."""
    spec = SPECS[1]
    model = build(spec)
    with torch.no_grad():
        model.bn1.weight.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
        model.bn2.running_mean.uniform_(-1.0, 1.0)  # type: ignore[union-attr, operator]
    inputs = inputs_for(spec, 5)
    onnx_export.onnx_bytes(build(spec), spec.example)
    torch.testing.assert_close(says(onnx_export.onnx_bytes(model, spec.example), inputs), model(inputs))


def test_changed_layers_are_traced_again() -> None:
    """A spec that no longer tells the truth, and a hook, are seen."""
    spec = SPECS[0]
    model, inputs = build(spec), inputs_for(spec, 3)
    onnx_export.onnx_bytes(model, spec.example)
    model.relu1 = nn.Tanh()
    torch.testing.assert_close(says(onnx_export.onnx_bytes(model, spec.example), inputs), model(inputs))
    model.register_forward_hook(lambda _m, _i, out: 2 * out)
    torch.testing.assert_close(says(onnx_export.onnx_bytes(model, spec.example), inputs), model(inputs))


def test_templates_are_bounded() -> None:
    for width in range(1, onnx_export.KEPT_TEMPLATES + 5):
        spec = Spec("mlp", (("sizes", (2, width)),), (2,))
        onnx_export.onnx_bytes(build(spec), spec.example)
    assert len(onnx_export._templates) <= onnx_export.KEPT_TEMPLATES


def test_the_model_and_the_process_are_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    model = build(SPECS[1]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        onnx_export.onnx_bytes(model, SPECS[1].example)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [str(w.message) for w in seen] == []
    assert capsys.readouterr() == ("", "")


def test_four_threads_export_what_one_does() -> None:
    models = [build(spec, seed=k) for k in range(2) for spec in SPECS[:3]]
    alone = [onnx_export.onnx_bytes(m, m.spec.example) for m in models]  # type: ignore[union-attr, arg-type]
    together: dict[int, bytes] = {}

    def work(k: int) -> None:
        together[k] = onnx_export.onnx_bytes(models[k], models[k].spec.example)  # type: ignore[union-attr, arg-type]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(models))]
    for thread in threads:
        thread.start()
    join(threads, "the exports of six models", LIMIT_S)
    assert [together[k] for k in range(len(models))] == alone


def test_what_cannot_be_exported_says_so_and_names_the_way_out() -> None:
    with pytest.raises(
        ModelOptError, match=r"^cannot export Branching to ONNX \(.*\); runtime='eager' runs it as it is$"
    ):
        onnx_export.onnx_bytes(Branching(), torch.zeros(1, 4))


def test_a_file_that_the_checker_accepts(tmp_path: Path) -> None:
    workload = mo.workload("digits")
    model = build(SPECS[1])
    path = mo.export_onnx(model, workload, tmp_path / "model.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    inputs = workload.val.inputs[:9]
    torch.testing.assert_close(says(path.read_bytes(), inputs), model(inputs))
    assert np.array_equal([p.name for p in tmp_path.iterdir()], ["model.onnx"])


def test_a_failed_write_keeps_the_old_file_and_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = atomic.write(tmp_path / "file", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ModelOptError, match=r"cannot write .*No space left on device.*; choose a folder with room"):
        atomic.write(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["missing/folder/file", "nul\0"])
def test_a_path_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelOptError, match="cannot write"):
        atomic.write(tmp_path / name, b"")


def test_a_kept_template_holds_no_weights():
    """Cleared fields of a message keep their memory until it goes: 64 templates of LeNet-5 held 110 MB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    example = torch.zeros(1, 1, 32, 32)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(1024, 3000 + i), nn.Linear(3000 + i, 10)).eval() for i in range(12)]
    onnx_export._trace(nets[0], example)
    memory.trim()
    before = resident_mb()
    kept = [onnx_export._trace(net, example) for net in nets]  # of 12 MB each
    memory.trim()
    grown = resident_mb() - before
    assert grown < 60, f"{len(kept)} templates hold {grown:.0f} MB"
