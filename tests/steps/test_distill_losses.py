"""Each loss by hand, then against PyTorch's own pieces or the paper's formula written out, then its limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor

from modelopt_core.machine.registry import Entry
from modelopt_core.steps.distill.losses import LOSSES, OTHERS, LossContext

Loss = Callable[[LossContext], Tensor]


def drawn(b: int = 6, k: int = 5, seed: int = 0, temperature: float = 3.0) -> LossContext:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(b, k, generator=draw) for _ in "st")
    own, theirs = (torch.randn(b, 3, 4, 4, generator=draw) for _ in "st")
    return LossContext(student, teacher, torch.arange(b) % k, own, theirs, temperature)


def logits(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def test_kl_by_hand() -> None:
    """The student says ½ ½, the teacher ¾ ¼: KL = ¾ ln 1.5 + ¼ ln 0.5."""
    found = LOSSES["kl"](LossContext(logits(0.5, 0.5), logits(0.75, 0.25)))
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_kl_by_hand_at_two_degrees() -> None:
    """T = 2 takes the square root of 9 : 1, which is ¾ : ¼; the result is multiplied by 4."""
    found = LOSSES["kl"](LossContext(logits(0.5, 0.5), logits(0.9, 0.1), temperature=2.0))
    assert float(found) == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_kl_is_scipys_relative_entropy(temperature: float) -> None:
    c = drawn(temperature=temperature)
    p, q = (softmax(x.double().numpy() / temperature, axis=1) for x in (c.teacher, c.student))
    expected = temperature**2 * rel_entr(p, q).sum(axis=1).mean()
    assert float(LOSSES["kl"](c)) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_of_kl_keeps_its_size_and_becomes_that_of_mse() -> None:
    """Hinton 2015, sec. 2.1: with T large and logits of mean zero, T² · ∂KL/∂s = (s − t) / K."""
    c = drawn()
    student, teacher = (x.double() - x.double().mean(dim=1, keepdim=True) for x in (c.student, c.teacher))
    student.requires_grad_(True)
    (slope,) = torch.autograd.grad(LOSSES["kl"](LossContext(student, teacher, temperature=1e5)), student)
    torch.testing.assert_close(slope * len(student), (student - teacher).detach() / student.shape[1], atol=1e-3, rtol=0)
    (other,) = torch.autograd.grad(LOSSES["mse_logits"](LossContext(student, teacher)), student)
    torch.testing.assert_close(slope, other / 2, atol=1e-3, rtol=0)  # mse is divided by B · K, kl by B


def test_mse_logits_by_hand() -> None:
    found = LOSSES["mse_logits"](LossContext(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]])))
    assert float(found) == (1 + 4) / 2


def test_dkd_by_hand() -> None:
    """Label 0. Teacher ½ ¼ ¼, student ¼ ¼ ½: label against rest ½ ½ and ¼ ¾; among the rest ½ ½ and ⅓ ⅔."""
    label = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    rest = 0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 3 / 2)
    found = LOSSES["dkd"](LossContext(logits(0.25, 0.25, 0.5), logits(0.5, 0.25, 0.25), torch.tensor([0])))
    assert float(found) == pytest.approx(label + OTHERS * rest, rel=1e-5)


def test_dkd_is_kl_taken_apart() -> None:
    """Zhao et al., equation 7: KL = label part + (1 − p of the label) · part among the rest, example by example."""
    c = drawn(b=1)
    p = torch.softmax(c.teacher / c.temperature, dim=1)[0, c.labels[0]]
    (b, s), t2 = [[p, 1 - p], [q := torch.softmax(c.student / c.temperature, dim=1)[0, c.labels[0]], 1 - q]], 9
    label = t2 * sum(x * torch.log(x / y) for x, y in zip(b, s, strict=True))
    among = (LOSSES["dkd"](c) - label) / OTHERS
    torch.testing.assert_close(label + (1 - p) * among, LOSSES["kl"](c), rtol=1e-4, atol=1e-5)


def test_dkd_stays_finite_where_the_teacher_is_certain() -> None:
    found = LOSSES["dkd"](LossContext(torch.zeros(1, 3), torch.tensor([[500.0, 0.0, 0.0]]), torch.tensor([0])))
    assert float(found) == pytest.approx(math.log(3))


def test_hint_by_hand() -> None:
    own, theirs = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0, 5.0]]])
    assert float(LOSSES["hint"](LossContext(own, own, own, own, theirs))) == 9 / 2


def test_attention_by_hand() -> None:
    """Two channels, two positions: Σ f² is (9, 16), of length √337; the teacher looks left only."""
    own = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])  # (1, 2, 2)
    theirs = torch.tensor([[[7.0, 0.0]]])  # (1, 1, 2): other channels
    a = np.array([9, 16]) / math.hypot(9, 16)
    expected = (a[0] - 1) ** 2 + a[1] ** 2
    assert float(LOSSES["attention"](LossContext(own, own, own, own, theirs))) == pytest.approx(expected, rel=1e-6)


def test_attention_is_two_minus_twice_the_cosine() -> None:
    c = drawn()
    maps = [f.square().sum(1).flatten(1) for f in (c.student_features, c.teacher_features)]
    expected = (2 - 2 * torch.cosine_similarity(*maps)).mean()
    torch.testing.assert_close(LOSSES["attention"](c), expected)


def test_attention_heeds_neither_scale_nor_the_number_of_channels() -> None:
    c = drawn()
    scaled = LossContext(c.student, c.teacher, c.labels, 7 * c.student_features.repeat(1, 2, 1, 1), c.teacher_features)
    torch.testing.assert_close(LOSSES["attention"](scaled), LOSSES["attention"](c))


@pytest.mark.parametrize("name", ["kl", "dkd"])
def test_a_constant_added_to_all_logits_changes_nothing(name: str) -> None:
    c = drawn()
    moved = LossContext(c.student + 5, c.teacher - 3, c.labels, temperature=c.temperature)
    torch.testing.assert_close(LOSSES[name](moved), LOSSES[name](c), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", [(1,), (3, 1), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (1, 7), (3, 2), (5, 10)])
@pytest.mark.parametrize("entry", list(LOSSES.values()), ids=lambda e: e.name)
def test_contract(
    entry: Entry[Callable[[LossContext], Tensor]], shape: tuple[int, int], features: tuple[int, ...]
) -> None:
    """One finite number, not negative, zero where the student is its teacher; finite gradients, whatever comes in."""
    b, k = shape
    draw = torch.Generator().manual_seed(0)
    fills: list[Callable[..., Tensor]] = [
        lambda *s: torch.randn(s, generator=draw),
        torch.zeros,
        lambda *s: torch.full(s, -50.0),
    ]
    for fill in fills:
        labels = torch.arange(b) % k
        student, own = fill(b, k).requires_grad_(True), fill(b, *features).requires_grad_(True)
        context = LossContext(student, torch.randn(b, k, generator=draw) * 50, labels, own, fill(b, *features) + 1, 2.0)
        loss = entry(context)
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert loss >= 0
        found = torch.autograd.grad(loss, (student, own), allow_unused=True)
        assert all(torch.isfinite(g).all() for g in found if g is not None)
        assert (found[1] is not None) == ("student_features" in entry["needs"])
        same = replace(context, teacher=student.detach(), teacher_features=own.detach())
        assert entry(same).item() == pytest.approx(0, abs=1e-5)
