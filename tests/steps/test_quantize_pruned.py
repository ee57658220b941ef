"""Zeros of a pruned network outlive quantization, whatever the rounding, observer, grid and bits."""

from __future__ import annotations

import sys
from itertools import product

import pytest
import torch

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.machine.events import Note, silent
from modelopt_core.models import weight_grid
from modelopt_core.steps.quantize import OBSERVERS, ROUNDINGS, Scheme, quantize_tensor
from modelopt_core.structure.layer_table import WEIGHTED

SEED = 5
KINDS = [("symmetric", "tensor"), ("symmetric", "group"), ("affine", "channel"), ("codebook", "tensor")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["modelopt_core.steps.quantize.adaround"], "STEPS", 20)


def pruned() -> tuple[torch.Tensor, torch.Tensor]:
    """(6, 10) with a third of it zero, a row of zeros among them, and (1, 40, 10) inputs that hang together."""
    generator = torch.Generator().manual_seed(SEED)
    weight = torch.randn(6, 10, generator=generator) + 0.3
    weight[torch.rand(6, 10, generator=generator) < 0.33] = 0
    weight[2] = 0
    return weight, torch.randn(1, 40, 10, generator=generator) @ torch.randn(10, 10, generator=generator)


@pytest.mark.parametrize("rounding", list(ROUNDINGS))
@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_zeros_of_one_weight_stay(rounding: str, bits: int) -> None:
    for (kind, per), observer in product(KINDS, OBSERVERS):
        weight, inputs = pruned()
        scheme, generator = Scheme(bits, kind, per, observer, 4), torch.Generator().manual_seed(SEED)
        values, points = quantize_tensor(weight, scheme, rounding, generator, silent, inputs)
        assert not bool(values[weight == 0].any()), (kind, per, observer)
        others = points.values(points.nearest(values))[weight != 0]
        assert torch.equal(values[weight != 0], others), (kind, per, observer)


def test_gptq_makes_up_for_what_a_zero_cannot() -> None:
    """Two equal inputs: the first weight, 0.4, rounds to 0, the second is gone, the third takes what is missing."""
    weight, inputs = torch.tensor([[0.4, 0.0, 0.4, 1.0]]), torch.eye(4).repeat(50, 1)[None].clone()
    inputs[..., 1] = inputs[..., 2] = inputs[..., 0]
    inputs[..., 0] *= 1.1  # goes first
    values, _ = quantize_tensor(weight, Scheme(2, "symmetric", "tensor"), "gptq", torch.Generator(), silent, inputs)
    assert values.tolist() == [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("rounding", list(ROUNDINGS))
@pytest.mark.parametrize("granularity", ["weight", "n:m"])
@pytest.mark.parametrize("bits", [1, 4])
def test_zeros_of_a_network_stay_and_the_file_has_them(rounding: str, granularity: str, bits: int) -> None:
    w, told = mo.workload("digits"), list[object]()
    masked = mo.Prune(ratio=0.5, granularity=granularity).apply(mo.baseline("digits", "cnn"), w)  # type: ignore[arg-type]
    small = mo.Quantize(bits=bits, rounding=rounding, examples=64).apply(masked, w, report=told.append)
    layers = [name for name, layer in small.named_modules() if isinstance(layer, WEIGHTED)]
    for name in layers:
        was, now = masked.get_submodule(name).get_parameter("weight"), small.get_submodule(name)
        assert not bool(now.get_parameter("weight")[was == 0].any())
        assert weight_grid.codes(now) is not None
    texts = [event.text for event in told if isinstance(event, Note)]
    said = f"one bit has no zero: what is zero in {', '.join(layers)} stays so, beside the two points"
    assert texts == ([said] if bits == 1 else [])
    again = mopt.decode(mopt.encode(small)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in small.state_dict().items())
