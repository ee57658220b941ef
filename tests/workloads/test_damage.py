"""Inputs that were altered on purpose: the same in every call, with the truth that undoes it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import STORE
from modelopt_core.tasks.boxes import edges, overlap
from modelopt_core.workloads.augment import scatter
from modelopt_core.workloads.damage import Scattered, altered
from modelopt_core.workloads.subtask import locating
from modelopt_core.workloads.workload import SPLITS, Outputs, Workload


@pytest.fixture(scope="module")
def w() -> Workload:
    """Digits that may be scattered: none of their readers would know them, but the arithmetic is MNIST's."""
    plain = mo.workload("digits")
    return replace(plain, scatter=scatter, subtasks=(*plain.subtasks, locating("image")))


def test_half_is_damaged_the_same_in_every_call(w: Workload) -> None:
    first = mo.damaged(w)
    assert mo.damaged(w) is first
    assert mo.damaged(first) is first
    STORE.clear()
    again = mo.damaged(w)
    assert again is not first
    assert again.data_hash == first.data_hash != w.data_hash
    for split in SPLITS:
        bad = first.harmed[split]
        assert torch.equal(first.split(split).inputs, again.split(split).inputs)
        assert 0.4 < float(bad.float().mean()) < 0.6
        assert torch.equal(first.split(split).inputs[~bad], w.split(split).inputs[~bad])
        assert (first.split(split).inputs[bad] != w.split(split).inputs[bad]).flatten(1).any(dim=1).all()
        assert torch.equal(first.sound(split), w.split(split).inputs)
    assert "simulated" in first.title
    assert "simulated" in first.note
    assert first.call == "mo.damaged(mo.workload('digits'))"
    assert first.show is not None
    assert first.show("val", 0).shape == (8, 8)  # type: ignore[attr-defined]


def test_texts_are_not_damaged() -> None:
    with pytest.raises(ModelOptError, match="docstrings does not say how its inputs are damaged; use digits or mnist"):
        mo.damaged(mo.workload("docstrings"))


@pytest.mark.parametrize("n", [1, 30])
def test_scatter(n: int) -> None:
    """As light as before, less what shrinks; nothing outside the box."""
    images = torch.ones(n, 1, 12, 12)
    found, boxes = scatter(images, torch.Generator().manual_seed(0))
    low, high = edges(boxes)
    assert found.shape == images.shape
    assert ((boxes[:, 2] >= 0.4) & (boxes[:, 2] <= 0.7) & (low >= -1e-6).all(1) & (high <= 1 + 1e-6).all(1)).all()
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), 144 * boxes[:, 2].square(), rtol=0.02, atol=0)
    middles = (torch.arange(12) + 0.5) / 12
    reach = 1 / 12  # of a new pixel's average
    for image, first, last in zip(found[:, 0], low, high, strict=True):
        rows, columns = (((middles < first[i] - reach) | (middles > last[i] + reach)) for i in (0, 1))
        assert float(image[rows].sum() + image[:, columns].sum()) == 0


def test_scattered_the_same_in_every_call(w: Workload) -> None:
    first = mo.scattered(w)
    assert altered(w, "scatter") is first
    assert mo.scattered(first) is first
    assert altered(w, "") is w
    STORE.clear()
    again = mo.scattered(w)
    assert again is not first
    assert len({again.data_hash, w.data_hash, first.whole.data_hash, mo.damaged(w).data_hash}) == 4
    assert again.data_hash == first.data_hash
    for split in SPLITS:
        assert torch.equal(first.split(split).inputs, again.split(split).inputs)
        assert torch.equal(first.truth[split], again.truth[split])
        assert torch.equal(first.split(split).targets, w.split(split).targets)
        away, shrunk = ((one.inputs - w.split(split).inputs).abs().mean() for one in
                        (first.split(split), first.whole.split(split)))  # fmt: skip
        assert float(shrunk) < float(away), "what lies in the true box is more like it"
    assert "scattered (simulated)" in first.title
    assert first.note.endswith("simulated.")
    assert first.call == "mo.scattered(mo.workload('digits'))"
    assert first.show is not None
    assert first.show("val", 0).shape == (8, 8)  # type: ignore[attr-defined]


def test_what_a_locator_learns(w: Workload) -> None:
    part, data = mo.part(w, "locate"), mo.scattered(w)
    assert torch.equal(part.val.targets, data.truth["val"])
    assert torch.equal(part.val.inputs, data.val.inputs)
    said = Outputs(torch.tensor([[0.25, 0.25, 0.5]]))
    target = torch.tensor([[0.25, 0.5, 0.5]])
    assert part.example_scores(said, target).tolist() == pytest.approx([1 / 3])
    assert float(part.loss(said, target)) == pytest.approx(2 / 3 + 0.25 / 3)
    assert part.decode(said) is said.logits
    assert part.confidence(said).tolist() == [1.0]
    always = data.truth["val"].mean(dim=0).expand(len(part.val), 3)
    assert part.chance == pytest.approx(float(overlap(always, data.truth["val"]).mean()))
    step = mo.Finetune(epochs=2, lr=0.01)
    learned = step.apply(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), part)
    assert mo.measure(learned, part).score.value > 0.05


@pytest.mark.mnist
def test_the_shipped_locator_and_its_compressed_forms() -> None:
    """Mean IoU on val; steps work on it as on any model."""
    part, model = mo.part(mo.workload("mnist"), "locate"), mo.baseline("mnist", "locate")
    scores = [mo.measure(made, part).score.value for made in
              (model, mo.Quantize(bits=8).apply(model, part), mo.Prune(ratio=0.05).apply(model, part))]  # fmt: skip
    assert scores[0] > part.chance + 0.3
    assert scores[1] > scores[0] - 0.02
    assert scores[2] > part.chance


def test_what_is_not_scattered() -> None:
    for name in ("digits", "docstrings"):
        with pytest.raises(ModelOptError, match=f"{name} does not say how its inputs are scattered; use mnist"):
            mo.scattered(mo.workload(name))
    with pytest.raises(ModelOptError, match=r"unknown alteration 'blur'; choose from damage, scatter"):
        altered(mo.workload("digits"), "blur")
    assert not isinstance(mo.damaged(mo.workload("digits")), Scattered)
