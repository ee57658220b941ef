"""Small files that ask for much: refused by arithmetic, before anything of that size exists."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.fuzz import headed
from modelopt_core.errors import ModelOptError
from modelopt_core.files import mopt
from modelopt_core.files.stream import varint
from modelopt_core.models import limits
from modelopt_core.models.composite import compose
from modelopt_core.models.spec import Spec
from modelopt_core.structure.build import build

LIMIT_S, LIMIT_MB = 2.0, 32  # alone it takes a few milliseconds; what is refused needs no memory
WIDE = [4096, 4096, 64]
# A weight on a grid of two levels around zero whose 16 million codes are all the same: 12 bytes.
RECORD = bytes([4]) + varint(2) + bytes([8]) + b"\0\0\x80?" + bytes([2, 0]) * 2
SHAPES: dict[str, tuple[dict[str, object], bytes]] = {
    "mlp": ({"a": "mlp", "b": {"sizes": [64, 7, 10]}, "i": WIDE, "k": {"fc1": 3}}, b""),
    "lenet5": ({"a": "lenet5", "i": WIDE, "k": {"conv1": 3}}, b""),
    "denoiser": ({"a": "denoiser", "i": [1, 4096, 4096], "k": {"conv1": 3}}, b""),
    "bag": ({"a": "bag", "i": [2**26], "t": "int64", "k": {"fc1": 3}}, b""),
    "textcnn": ({"a": "textcnn", "i": [2**22], "t": "int64", "k": {"conv1": 3}}, b""),
    "records": ({"a": "mlp", "b": {"sizes": [4096, 4095]}, "i": [4096]}, RECORD * 2),
    "whole": ({"a": "mlp", "b": {"sizes": [64, 7, 10]}, "i": WIDE}, b""),
    "widths": ({"a": "lenet5", "b": {"width1": 16000, "width2": 1}, "i": [1, 28, 28], "k": {"conv1": 3}}, b""),
    "member": (
        {
            "a": "ensemble", "b": {"rule": "mean"}, "i": [1, 8, 8],
            "m": [{"a": "cnn", "i": [1, 8, 8]}, {"a": "denoiser", "i": WIDE}],
        },
        b"",
    ),
    "heads": (
        {
            "a": "exits", "i": [64], "m": [{"a": "mlp", "b": {"sizes": [64] * 60}, "i": [64]}],
            "b": {"layers": ",".join(f"fc{i}" for i in range(1, 40)), "confidence": "max_prob", "hidden": 65536},
        },
        b"",
    ),
}  # fmt: skip
CHILD = """
import json, resource, sys, time
import modelopt_core.steps.cascade
from modelopt_core.files import mopt as codec
from modelopt_core.models.composite import compose
from modelopt_core.structure.build import build
from modelopt_core.models.spec import Spec
build(Spec("textcnn", (), (9,), "int64", (("conv1", 3),)))
kept = build(Spec("mlp", (("sizes", (8, 8, 8)),), (8,), kept=(("fc1", 3),)))
exits = build(Spec("mlp", (("sizes", (64, 64, 64, 64)),), (64,)))
exits = compose("exits", [exits], layers="fc1", confidence="max_prob")  # the libraries are loaded, once
for data in (codec.encode(kept), codec.encode(exits), bytes.fromhex(sys.argv[1])):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        codec.decode(data)
        said = "loaded"
    except codec.FileError as error:
        said = str(error)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps([said, time.perf_counter() - start, (after - before) / unit]))
"""


@pytest.mark.parametrize("name", SHAPES)
def test_what_asks_for_much_is_refused_at_once(name: str) -> None:
    """In a process of its own, by the most memory that it ever had."""
    data = headed(*SHAPES[name])
    assert len(data) < 250
    done = subprocess.run(
        [sys.executable, "-c", CHILD, data.hex()], capture_output=True, text=True, timeout=300, check=True
    )
    said, seconds, grown_mb = json.loads(done.stdout)
    assert "allowed are" in said or "are allowed" in said, said
    assert seconds < LIMIT_S
    assert grown_mb < LIMIT_MB


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"a": "ensemble", "b": {"rule": "mean"}, "i": [64], "m": [{"a": "cnn", "i": [1, 8, 8]}] * 2},
            r"takes float32 \(64,\), and its first member takes float32 \(1, 8, 8\); they must be the same",
        ),
        (
            {"a": "ensemble", "b": {"rule": "mean"}, "i": [1, 8, 8], "t": "int64", "m": [{"a": "cnn", "i": [1, 8, 8]}]},
            r"takes int64 \(1, 8, 8\), and its first member takes float32",
        ),
        ({"a": "cnn", "i": [1, 8, 8], "k": {"conv1": True}}, "True channels of 'conv1' can't be kept"),
        ({"a": "cnn", "i": [1, 8, 8], "k": {"conv1": 2.5}}, "2.5 channels of 'conv1' can't be kept"),
        ({"a": "cnn", "i": [1, 8, 8], "k": {"conv1": 10**30}}, "0 channels of 'conv1' can't be kept"),
    ],
)  # fmt: skip
def test_headers_that_contradict_themselves(fields: dict[str, object], says: str) -> None:
    with pytest.raises(mopt.FileError, match=says):
        mopt.decode(headed(fields))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (Spec("mlp", (("sizes", (64, 7, 10)),), (8, 9)), "cannot be multiplied"),
        (Spec("cnn", (), (1, 9, 9), "int64"), "expected|type"),
        (Spec("bag", (("vocabulary", 9),), (12,), "float32"), "Expected|indices"),
    ],
)
def test_a_network_that_cannot_take_its_own_input_is_refused(spec: Spec, says: str) -> None:
    """Whole files: only running them tells."""
    with pytest.raises(mopt.FileError, match=says):
        mopt.decode(mopt.encode(build(spec)))


def test_a_second_member_of_another_kind_is_refused() -> None:
    whole = compose(
        "ensemble", [build(Spec("cnn", (), (1, 8, 8))), build(Spec("bag", (), (48,), "int64"))], rule="mean"
    )
    with pytest.raises(mopt.FileError, match="not a whole"):
        mopt.decode(mopt.encode(whole))


def test_a_plan_of_many_maps_is_refused() -> None:
    """Each may double the ways that an input can take: 2^30 here."""
    stages = [["judge", "judge", [0], []], *([["repair", "map", [0], []]] * 30)]
    fields = {"a": "pipeline", "i": [1, 8, 8], "b": {"plan": json.dumps(stages)}, "m": [{"a": "cnn", "i": [1, 8, 8]}]}
    with pytest.raises(mopt.FileError, match="31 stages, allowed are 8"):
        mopt.decode(headed(fields))


def test_activations_are_a_bound() -> None:
    """Never fewer than a run makes, by the layers' own outputs; and by hand."""
    assert limits.activations(build(Spec("mlp", (("sizes", (64, 7, 10)),), (1, 8, 8))), (1, 8, 8)) == 64 + 7 + 10
    assert limits.activations(build(Spec("bag", (("vocabulary", 9),), (12,), "int64")), (12,)) == 12 + 12 * 32 + 32 + 2
    for name in ("cnn", "lenet5", "article", "denoiser", "textcnn"):
        text, side = name == "textcnn", 28 if name in ("lenet5", "article") else 8
        spec = Spec(name, (), (30,), "int64") if text else Spec(name, (), (1, side, side))
        model, made = build(spec), [spec.example.numel()]
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Linear | torch.nn.Embedding):
                layer.register_forward_hook(lambda _layer, _inputs, out, made=made: made.append(out.numel()))
        model(spec.example)
        assert sum(made) <= limits.activations(model, spec.input_shape) < 4 * sum(made), name


def test_largest_of_the_shipped_are_far_below() -> None:
    """What the project itself makes uses a hundredth of the activations, and far fewer parameters for its bytes."""
    from modelopt_core.training.zoo_recipes import ZOO

    for name, training in ZOO.items():
        model = build(training.spec)
        assert limits.activations(model, training.spec.input_shape) < mopt.MAX_ACTIVATIONS / 50, name
        assert sum(p.numel() for p in model.parameters()) < mopt.FEW_PARAMETERS, name


def test_an_allowance_is_for_all_layers_inside() -> None:
    with limits.Allowance(30):
        torch.nn.Linear(4, 4)
        with pytest.raises(ModelOptError, match=r"6 parameters more than are allowed, in a layer of \(4, 4\)"):
            torch.nn.Linear(4, 4)


def test_wide_files_that_are_honest_are_read() -> None:
    """More parameters than any small file may have, in as many bytes as they take."""
    model = build(Spec("mlp", (("sizes", (2100, 2000)),), (2100,)))
    assert sum(p.numel() for p in model.parameters()) > mopt.FEW_PARAMETERS
    assert torch.equal(mopt.decode(mopt.encode(model)).fc1.weight, model.fc1.weight)  # type: ignore[union-attr]
