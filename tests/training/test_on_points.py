"""Training on the points: the rounding by hand, the gradient against a definition, what a training leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.machine.events import Progress
from modelopt_core.models import identity, weight_grid
from modelopt_core.models.weight_grid import Codebook, Grid
from modelopt_core.training.on_points import OnBook, OnGrid, Rounding, Settling, on_points, settled

SEED = 7
QUANTIZED = [
    mo.Quantize(bits=2, per="tensor", observer="mse"),
    mo.Quantize(bits=3, scheme="affine"),
    mo.Quantize(bits=4, per="group", group=8),
    mo.Quantize(bits=3, scheme="codebook"),
    mo.Quantize(bits=1),
]


def test_three_points_by_hand() -> None:
    """Scale 0.5, points −0.5, 0, 0.5: the weights round to codes 0 1 2 2; the last is outside by far."""
    rounding = OnGrid(Grid(torch.tensor([0.5]), torch.tensor([1.0]), 3))
    weight = torch.tensor([[-0.4, 0.1, 0.3, 9.0]], requires_grad=True)
    values = rounding(weight)
    torch.testing.assert_close(values, torch.tensor([[-0.5, 0.0, 0.5, 0.5]]))
    values.backward(torch.tensor([[1.0, 1.0, 1.0, -1.0]]))
    torch.testing.assert_close(weight.grad, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))  # a step would go further out
    # ∂/∂scale: (code − 1) − weight / scale for what may move, (code − 1) for what may not; times the scale for its log
    expected = 0.5 * ((-1 + 0.8) + (0 - 0.2) + (1 - 0.6) - 1)
    assert float(rounding.log_scale.grad) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1,), (3, 1), (2, 5, 3)])
def test_the_gradient_comes_back_in_but_not_out(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(SEED)
    place = (6 * torch.rand(shape, generator=generator) - 2).requires_grad_()
    pull = torch.randn(shape, generator=generator)
    rounded = Rounding.apply(place, 2)
    assert torch.equal(rounded, place.detach().round().clamp(0, 2))
    rounded.backward(pull)
    outside = ((place < 0) & (pull > 0)) | ((place > 2) & (pull < 0))
    assert torch.equal(place.grad, torch.where(outside, 0.0, pull))


def test_a_codebook_learns_and_its_zero_stays() -> None:
    rounding = OnBook(Codebook(torch.tensor([-1.0, 0.0, 2.0])))
    weight = torch.tensor([-1.1, 0.2, 1.8, 2.5], requires_grad=True)
    values = rounding(weight)
    torch.testing.assert_close(values, torch.tensor([-1.0, 0.0, 2.0, 2.0]))
    values.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert rounding.values.grad.tolist() == [1.0, 0.0, 7.0]  # type: ignore[union-attr]
    assert weight.grad.tolist() == [1.0, 2.0, 3.0, 4.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("step", QUANTIZED, ids=lambda step: step.label)
def test_there_and_back_changes_nothing(step: mo.Quantize) -> None:
    model = step.apply(mo.baseline("digits", "mlp"), mo.workload("digits"))
    key = identity.key(model)
    back = settled(on_points(model))
    assert identity.key(model) == key
    assert list(back.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor)
    for one, other in zip(model.modules(), back.modules(), strict=True):
        found, expected = weight_grid.codes(other), weight_grid.codes(one)
        assert (found is None) == (expected is None)
        assert found is None or torch.equal(found[0], expected[0])  # type: ignore[index]


@pytest.mark.parametrize("step", QUANTIZED[:4], ids=lambda step: step.label)
def test_fine_tuning_on_the_grid(step: mo.Quantize) -> None:
    """Zeros stay, every weight lies on points afterwards, val gains, and the file holds the same bits."""
    w = mo.workload("digits")
    pruned = mo.Prune(ratio=0.6, granularity="weight").apply(mo.baseline("digits", "cnn"), w)
    coarse = step.apply(pruned, w)
    fine = mo.Finetune(epochs=2, lr=3e-3).apply(coarse, w)
    assert mo.predictions(fine, w).scores.mean() > mo.predictions(coarse, w).scores.mean()
    layers = [m for m in fine.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert all(weight_grid.codes(layer) is not None for layer in layers)
    for before, after in zip(coarse.parameters(), fine.parameters(), strict=True):
        assert before.dim() == 1 or not bool(after[before == 0].any())
    again = mopt.decode(mopt.encode(fine)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in fine.state_dict().items())


def test_without_keep_grid_the_weights_leave_it() -> None:
    w = mo.workload("digits")
    coarse = mo.Quantize(bits=4).apply(mo.baseline("digits", "mlp"), w)
    free = mo.Finetune(epochs=1, lr=3e-3, keep_grid=False).apply(coarse, w)
    assert all(weight_grid.codes(m) is None for m in free.modules() if isinstance(m, nn.Linear))


def test_the_best_model_is_told_of_as_an_ordinary_one() -> None:
    model = mo.Quantize(bits=3).apply(mo.baseline("digits", "mlp"), mo.workload("digits"))
    told: list[object] = []
    Settling(told.append)(Progress("train", 1, 2, best=lambda: on_points(model)))
    Settling(told.append)("anything else")
    (event, other) = told
    assert isinstance(event, Progress)
    assert event.best is not None
    assert list(event.best().state_dict()) == list(model.state_dict())
    assert other == "anything else"
    assert Settling(told.append).recall("key") is None
