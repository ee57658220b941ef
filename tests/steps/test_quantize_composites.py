"""Roundings that look at data, in models that skip: each part is rounded with the examples that reach it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.models import weight_grid
from modelopt_core.models.composite import Composite
from modelopt_core.steps.quantize import ROUNDINGS
from modelopt_core.steps.quantize.calibrate import FEW, reached
from modelopt_core.structure.layer_table import WEIGHTED

DATA = [name for name in ROUNDINGS if ROUNDINGS[name]["needs_data"]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["modelopt_core.steps.quantize.adaround"], "STEPS", 20)


def pool() -> list[nn.Module]:
    return [mo.baseline("digits", name) for name in ("mlp", "cnn")]


def pipeline(w: mo.Workload) -> nn.Module:
    return mo.Pipeline().apply([mo.baseline("digits", n) for n in ("groups", "expert-1", "expert-2", "expert-3")], w)


WHOLES: dict[str, Callable[[mo.Workload], nn.Module]] = {
    "cascade": lambda w: mo.Cascade().apply(pool(), w),
    "exits": lambda w: mo.Cascade(stages="exits").apply(pool()[1:], w),
    "pipeline": pipeline,
    "ensemble of a cascade": lambda w: mo.Ensemble().apply([mo.Cascade().apply(pool(), w), pool()[1]], w),
}


def test_what_reaches_each_stage_of_a_cascade_by_hand() -> None:
    """The second stage gets those inputs of which the first is less sure than its threshold, in their order."""
    w, (first, second) = mo.workload("digits"), pool()
    whole = mo.Cascade(threshold=0.9999).apply([first, second], w)
    at = torch.arange(300)
    parts = reached(whole, w, at)
    assert list(parts) == ["members.0.", "members.1."]
    inputs = w.train.inputs[at]
    assert torch.equal(parts["members.0."], inputs)
    assert isinstance(whole, Composite)
    with torch.no_grad():
        doubtful = inputs[whole.members[0](inputs)[:, -1] < 0.9999]  # log-probabilities, then how sure it is
    assert FEW <= len(doubtful) < 300
    assert torch.equal(parts["members.1."], doubtful)


def test_a_piece_that_hardly_any_example_reaches_is_given_what_would_without_exits() -> None:
    w = mo.workload("digits")
    whole = WHOLES["exits"](w)
    parts = reached(whole, w, torch.arange(200))
    assert isinstance(whole, Composite)
    assert [len(inputs) for inputs in parts.values()] == [200, 200, 200]
    assert torch.equal(parts["members.2."], whole.taken(2, w.train.inputs[:200]))


def test_a_plain_model_is_one_part() -> None:
    w = mo.workload("digits")
    parts = reached(mo.baseline("digits", "cnn"), w, torch.arange(9))
    assert list(parts) == [""]
    assert torch.equal(parts[""], w.train.inputs[:9])


@pytest.mark.parametrize("rounding", DATA)
@pytest.mark.parametrize("kind", list(WHOLES))
def test_every_layer_gets_its_points(kind: str, rounding: str) -> None:
    w = mo.workload("digits")
    whole = WHOLES[kind](w)
    small = mo.Quantize(bits=4, rounding=rounding, examples=200).apply(whole, w)
    assert all(weight_grid.codes(layer) is not None for layer in small.modules() if isinstance(layer, WEIGHTED))
    nearest = mo.Quantize(bits=4).apply(whole, w)
    assert any(not torch.equal(a, b) for a, b in zip(small.parameters(), nearest.parameters(), strict=True))
    scores = [float(mo.predictions(model, w).scores.mean()) for model in (whole, small)]
    assert scores[1] > scores[0] - 0.05


@pytest.mark.parametrize("kind", ["cascade", "exits", "pipeline"])
def test_means_are_given_back_and_inputs_rounded_part_by_part(kind: str) -> None:
    w = mo.workload("digits")
    whole = WHOLES[kind](w)
    small = mo.Quantize(bits=3, recovery="bias", activations=8, examples=200).apply(whole, w)
    assert all(hasattr(layer, "input_levels") for layer in small.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    assert float(mo.predictions(small, w).scores.mean()) > 0.8
