"""The file gives every bit back, costs what it says, and builds the same model again."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import modelopt_core as mo
from benchmarks.size import broken
from modelopt_core.errors import ModelOptError
from modelopt_core.files import mopt
from modelopt_core.models import weight_grid
from modelopt_core.models.spec import Spec
from modelopt_core.models.weight_grid import Grid
from modelopt_core.structure.build import build
from tests.runtime.test_onnx_export import SPECS, each_architecture, inputs_for

QUANTIZED = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding)


def on_grid(model: nn.Module, levels: int, per_channel: bool = True) -> nn.Module:
    """Round every weight to a symmetric grid (an odd number of levels), or to two levels around zero."""
    for module in model.modules():
        if isinstance(module, QUANTIZED):
            weight = module.weight.detach()
            rows = weight.flatten(1) if per_channel else weight.reshape(1, -1)
            middle = (levels - 1) / 2
            on = Grid(rows.abs().amax(1) / middle, torch.full((len(rows),), middle), levels)
            with torch.no_grad():
                module.weight.copy_(on.values(on.nearest(weight)))
            weight_grid.attach(module, on)
    return model


def sparse(model: nn.Module, ratio: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, QUANTIZED):
            weight = module.weight.detach()
            module.weight.detach().masked_fill_(weight.abs() <= weight.abs().flatten().quantile(ratio), 0.0)
    return model


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    """State dicts equal bit for bit: names, shapes, types, NaN and −0.0 included."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and first[n].numpy().tobytes() == second[n].numpy().tobytes() for n in first
    )


def test_eight_weights_by_hand() -> None:
    """Codes 1 1 1 1 0 0 2 2: four of probability 1/2 (1 bit) and twice two of 1/4 (2 bits) make 12 bits.

    One scale and two biases are three raw floats, 12 bytes; so the bound is 13.5 bytes. The zero point is the middle.
    """
    model = build(Spec("mlp", (("sizes", (4, 2)),), (4,)))
    with torch.no_grad():
        model.fc1.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0], [-0.5, -0.5, 0.5, 0.5]]))  # type: ignore[union-attr, operator]
        model.fc1.bias.copy_(torch.tensor([1.0, 2.0]))  # type: ignore[union-attr, operator]
    weight_grid.attach(model.fc1, Grid(torch.tensor([0.5]), torch.tensor([1.0]), 3))  # type: ignore[arg-type]
    sizes = mopt.sizes(model)
    assert sizes.entropy_bytes == math.ceil(13.5)
    bias, weight = sizes.rows
    assert (bias.name, bias.shape, bias.mode, bias.floats_bytes, bias.table_bytes) == ("fc1.bias", (2,), "raw", 8, 1)
    # table: mode, levels, flags; flat, base, length; payload: 8 log2(3) bits and the coder's last state of 32
    assert (weight.name, weight.mode, weight.floats_bytes, weight.table_bytes) == ("fc1.weight", "grid", 4, 6)
    assert 1.5 < weight.codes_bytes <= math.ceil(8 * math.log2(3) / 8) + 4
    assert sizes.size_bytes == len(mopt.encode(model)) == sum(sizes.parts.values())
    assert sizes.parts["scales"] == 4
    assert sizes.parts["float weights"] == 8


@each_architecture
@pytest.mark.parametrize("levels", [2, 3, 7, 15, 31, 63, 127, 255])
def test_the_bars_at_every_width(spec: Spec, levels: int) -> None:
    """Bound and bars of the whole file, and the same bits, answers, grids and bytes after loading."""
    model = on_grid(build(spec), levels, per_channel=levels % 4 == 3)
    data, sizes = mopt.encode(model), mopt.sizes(model)
    assert len(data) == sizes.size_bytes
    assert {row.mode for row in sizes.rows if row.name.endswith("weight") and len(row.shape) > 1} == {"grid"}
    assert sizes.entropy_bytes <= sizes.size_bytes
    assert broken(model, data) == []

    loaded, inputs = mopt.decode(data), inputs_for(spec, 5)
    assert same_bits(model, loaded)
    assert torch.equal(model(inputs), loaded(inputs))
    for module in loaded.modules():
        assert not isinstance(module, QUANTIZED) or weight_grid.codes(module) is not None
    assert mopt.encode(loaded) == data


@each_architecture
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.99])
def test_sparse_models(spec: Spec, ratio: float) -> None:
    model = sparse(build(spec), ratio)
    sizes, loaded = mopt.sizes(model), mopt.decode(mopt.encode(model))
    assert same_bits(model, loaded)
    assert sizes.size_bytes <= 1.01 * sizes.entropy_bytes + 512 + 24 * len(sizes.rows)
    zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)
    raw = sum(t.nbytes for t in model.state_dict().values())
    assert sizes.size_bytes <= raw - 4 * zeros + zeros + 512 + 24 * len(sizes.rows)


OLD = """O;1o%0bh996^k(rfFKYA|FZSPm>5NQg}tFras`P30c<4v-J_h{nTit{&mBRypewTbI71&RDOzYUjo>;Og71G~>mth{YT+pHo?g$Ar?a
>KJq~jdIopu9)23Sc0rzVjS^#kEhCO9ijJ}HOdcN`nJH8OmBR>6@5k6aVR=xxW13{+7Jp+~IJ@jkHJ=NylJu3|2JrP^sJ#F#tJpceeKo1B01qulV1_lNeiBp
m*Lq|OvJ_Ny`2al$Fzfpviqd)+<oZh?kx{<zdMU}p#nyS1ha%ercfF8aB3<LlK1qB5F00315n?ndbXl2YkvD3T0mv8z#=vUOf=vUOfcpRubcpNA`)O3tK)N~9
!r7wrRc*n}V0RRAiJ_H8?yy5&k3jBvXj;jSe002Nh4+s7N0s;X70sslc6ZxP@p4zz=Hx{mI"""
OLD_WEIGHTS = "b4c5ac4bf441ac809b5388f282a49134174bf83ed17a75f42ae52da4e7dcfb49"


def test_a_file_of_version_1_still_loads() -> None:
    """Written by the program that had only version 1: grids of seven levels, a mask, a constant, raw; plain JSON."""
    model = mopt.decode(base64.b85decode(OLD.replace("\n", "")))
    assert model.note == {"recipe": [{"step": "Prune", "ratio": 0.5}], "score": 0.97}
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    assert hashlib.sha256(weights).hexdigest() == OLD_WEIGHTS
    assert [weight_grid.codes(m) is not None for m in model.modules() if isinstance(m, nn.Linear)] == [
        True,
        False,
        True,
    ]
    assert mopt.encode(model)[4] == 2
    assert same_bits(model, mopt.decode(mopt.encode(model)))


def test_pruned_after_quantization() -> None:
    """Two levels hold no zero, and a product with a mask gives −0.0: both are symbols of their own."""
    model = on_grid(build(SPECS[0]), 2)
    with torch.no_grad():
        model.fc1.weight[0] = 0.0  # type: ignore[union-attr, operator]
        model.fc2.weight[:, 1] = -0.0  # type: ignore[union-attr, operator]
    rows = {row.name: row.mode for row in mopt.sizes(model).rows}
    assert rows["fc1.weight"] == rows["fc2.weight"] == "grid"
    assert same_bits(model, mopt.decode(mopt.encode(model)))


def test_a_weight_that_left_its_grid_is_stored_raw() -> None:
    model = on_grid(build(SPECS[0]), 15)
    with torch.no_grad():
        model.fc1.weight[0, 0] += 1e-4  # type: ignore[union-attr, operator, index]
    loaded = mopt.decode(mopt.encode(model))
    assert same_bits(model, loaded)
    assert weight_grid.points_of(loaded.fc1) is None  # type: ignore[arg-type]
    assert weight_grid.codes(loaded.fc2) is not None  # type: ignore[arg-type]


def test_nan_weights_and_trained_norms() -> None:
    model = build(SPECS[1])
    with torch.no_grad():
        model.fc1.weight[0, 0] = math.nan  # type: ignore[union-attr, operator]
        model.bn1.running_mean[1] = -math.inf  # type: ignore[union-attr, operator]
        model.bn1.num_batches_tracked.fill_(12345)  # type: ignore[union-attr, operator]
    assert same_bits(model, mopt.decode(mopt.encode(model)))


STEPS = [
    {"step": "Prune", "ratio": 0.5},
    {"step": "Prune", "ratio": 0.7, "granularity": "weight"},
    {"step": "Quantize", "bits": 4},
]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_what_the_steps_make_can_be_kept(step: dict[str, object], tmp_path: Path) -> None:
    workload = mo.workload("digits")
    baseline = mo.baseline("digits", "cnn")
    (applied,) = mo.from_json(json.dumps({"steps": [step]}))
    assert isinstance(applied, mo.Transform)
    model = applied.apply(baseline, workload)
    loaded = mo.load(mo.save(model, tmp_path / "model.mopt"))
    assert not loaded.training
    assert same_bits(model, loaded)
    inputs = workload.val.inputs[:20]
    assert torch.equal(model(inputs), loaded(inputs))
    assert mopt.sizes(model).size_bytes == (tmp_path / "model.mopt").stat().st_size
    assert mopt.sizes(model).size_bytes < 0.6 * mopt.sizes(baseline).size_bytes


def test_a_note_travels_with_the_model(tmp_path: Path) -> None:
    note = {"recipe": [{"step": "prune", "ratio": 0.5}], "score": 0.97, "named": "żółw"}
    path = mopt.save(build(SPECS[0]), tmp_path / "model.mopt", note)
    loaded = mopt.load(path)
    assert loaded.note == note
    assert mopt.encode(loaded) == path.read_bytes()
    with pytest.raises(ModelOptError, match="the note is not JSON"):
        mopt.encode(loaded, {"recipe": object()})
    with pytest.raises(ModelOptError, match=r"header of 1,2\d\d,\d\d\d bytes; allowed are 1,048,576"):
        mopt.encode(loaded, {"noise": "x" * 1_200_000})


class Own(nn.Module):
    """A class that no architecture of ours describes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(100))
        self.tied = self.weight


def test_a_class_of_ones_own_is_sized_and_not_saved(tmp_path: Path) -> None:
    sizes = mopt.sizes(Own())
    assert sizes.label == ".safetensors file (own class)"
    assert sizes.size_bytes > sizes.entropy_bytes == 800
    with pytest.raises(ModelOptError, match=r"cannot say how to build Own; use export_safetensors\(model, path\)"):
        mopt.save(Own(), tmp_path / "model.mopt")
    assert list(tmp_path.iterdir()) == []


def test_a_spec_that_no_longer_fits_is_noticed_before_writing(tmp_path: Path) -> None:
    model = build(SPECS[0])
    model.fc2 = nn.Linear(7, 11)
    with pytest.raises(
        ModelOptError, match=r"Sequential cannot be built again from its spec \(.*\); use export_safetensors"
    ):
        mopt.save(model, tmp_path / "model.mopt")
    with pytest.raises(ModelOptError, match=r"fc1\.bias is torch\.float16; .* use model\.float\(\)"):
        mopt.save(build(SPECS[0]).half(), tmp_path / "model.mopt")
    assert list(tmp_path.iterdir()) == []
