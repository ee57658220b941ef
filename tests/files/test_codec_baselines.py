"""The bars of the file, on every shipped model at every width, with the recipe and the score in it."""

from __future__ import annotations

import pytest

import modelopt_core as mo
from benchmarks import lenet
from benchmarks.size import broken, quantized
from modelopt_core.files import header, mopt
from modelopt_core.models import weight_grid
from modelopt_core.models.spec import Spec
from modelopt_core.steps.quantize.quantize import BITS
from modelopt_core.tasks.statistics import Estimate
from modelopt_core.training.zoo import zoo_index
from tests.files.test_mopt import QUANTIZED, same_bits

NAMES = sorted(zoo_index())


def test_every_shipped_model_is_tried() -> None:
    assert {"digits/cnn", "docstrings/bag", "mnist/lenet5", "mnist/mlp1200"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_at_every_width(name: str) -> None:
    for bits in BITS:
        model, note = quantized(name, bits, "tensor" if bits % 2 else "channel")
        data = mopt.encode(model, note)
        assert broken(model, data) == [], f"{bits} bits"
        again = mopt.decode(data)
        assert same_bits(model, again), f"{bits} bits"
        assert again.note == note


@pytest.mark.parametrize("name", ["digits/cnn", "docstrings/textcnn", "mnist/lenet300"])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99])
def test_pruned_and_quantized(name: str, ratio: float) -> None:
    model, note = quantized(name, 4, "tensor", ratio)
    data = mopt.encode(model, note)
    assert broken(model, data) == []
    again = mopt.decode(data)
    assert same_bits(model, again)
    assert all(weight_grid.codes(m) is not None for m in again.modules() if isinstance(m, QUANTIZED))


@pytest.mark.parametrize(
    "step",
    [
        mo.Quantize(bits=4, per="group", group=32),
        mo.Quantize(bits=4, scheme="affine"),
        mo.Quantize(bits=3, scheme="codebook"),
    ],
    ids=lambda step: step.label,
)
def test_other_points(step: mo.Quantize) -> None:
    model = step.apply(mo.baseline("digits", "cnn"), mo.workload("digits"))
    data = mopt.encode(model)
    assert broken(model, data) == []
    assert same_bits(model, mopt.decode(data))


def test_a_long_recipe_is_a_short_header() -> None:
    """Ten steps with all their fields: over 1,500 characters of JSON; the bar for the whole header is 512 bytes."""
    steps: list[mo.Step] = [mo.Prune(granularity="channel", ratio=0.4), mo.Finetune(epochs=8, lr=2e-3, augment=True)]
    steps += [mo.Prune(granularity="weight", ratio=r, rounds=4, recovery="fine-tuned") for r in (0.5, 0.8, 0.9, 0.95)]
    steps += [mo.Quantize(bits=3, per="tensor", observer="mse"), mo.Finetune(epochs=5, keep_grid=True)] * 2
    note = {"recipe": [{"step": step.name, **step.model_dump(mode="json")} for step in steps]}
    head = header.encode(Spec("lenet5", (), (1, 28, 28)), note, {})
    assert len(str(note)) > 1500
    assert len(head) < 400
    assert header.decode(head, version=2) == (Spec("lenet5", (), (1, 28, 28)), note, {})


def test_recipe_and_score_travel() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    recipe = (mo.Quantize(bits=4),)
    stage = mo.run(recipe, [model], w)[-1]
    note = mopt.decode(mopt.encode(stage.model, mo.provenance(recipe, stage.measurement, seed=0))).note
    assert note["recipe"] == [{"step": "Quantize", **recipe[0].model_dump(mode="json")}]
    score = Estimate(**{name: note["score"][name] for name in ("value", "low", "high", "n", "how")})
    assert score.value == pytest.approx(stage.measurement.score.value, abs=1e-6)
    assert (note["score"]["metric"], note["score"]["split"], note["seed"]) == ("accuracy", "val", 0)


@pytest.mark.parametrize("ratio", [0.0, 0.9])
def test_the_adaptive_coder_earns_its_keep(ratio: float) -> None:
    """The same bits in fewer bytes; what a slider shows stays the static file."""
    model, note = quantized("digits/cnn", 3, "tensor", ratio)
    plain, short = mopt.encode(model, note), mopt.encode(model, note, adaptive=True)
    assert len(short) < 0.99 * len(plain)
    assert same_bits(model, mopt.decode(short))
    assert mopt.sizes(model).size_bytes == len(mopt.encode(model))


def test_a_large_model_is_not_coded_adaptively() -> None:
    model, note = quantized("mnist/lenet300", 3, "tensor")
    assert mopt.encode(model, note, adaptive=True) == mopt.encode(model, note)


def test_the_recipes_of_the_benchmark_are_recipes() -> None:
    """Both files are what `modelopt run` reads; the front prunes once more before it quantizes."""
    assert [step.name for step in lenet.recipe(0)] == ["Prune", "Finetune", "Quantize"]
    small, further = lenet.recipe(1), lenet.recipe(2)
    assert small[:3] == further[:3]
    assert small[3:] == further[4:]
    assert isinstance(further[3], mo.Prune)
    assert dict(further[3].ratios)["fc1"] > dict(small[2].ratios)["fc1"]  # type: ignore[attr-defined]
