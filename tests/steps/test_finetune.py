"""Fine-tuning as a step: it mends what was broken, keeps zeros, and refuses settings that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.files import mopt
from modelopt_core.machine.events import Note, Progress
from modelopt_core.models import weight_grid
from modelopt_core.models.spec import Spec
from modelopt_core.steps.finetune import Finetune
from modelopt_core.structure.build import build
from modelopt_core.training.loop import evaluate
from modelopt_core.training.zoo import baseline
from modelopt_core.workloads.workload import Workload, workload


@pytest.fixture(scope="module")
def digits() -> Workload:
    return workload("digits")


def test_it_mends_a_pruned_network_and_the_network_stays_pruned(digits: Workload) -> None:
    broken = baseline("digits", "mlp")
    with torch.no_grad():
        for name, weight in broken.named_parameters():
            if name.endswith("weight"):
                weight[weight.abs() < weight.abs().quantile(0.85)] = 0
    mended = Finetune(epochs=5, lr=3e-3).apply(broken, digits)
    before, after = (evaluate(m, digits, digits.val)[0] for m in (broken, mended))
    assert after > before + 0.05
    for (name, old), new in zip(broken.named_parameters(), mended.parameters(), strict=True):
        if name.endswith("weight"):
            assert torch.equal(old == 0, new == 0)


def test_the_input_is_untouched_and_a_seed_decides(digits: Workload) -> None:
    model = build(Spec("cnn", (), (1, 8, 8)))
    before = [t.clone() for t in model.state_dict().values()]
    step = Finetune(epochs=1, lr=1e-2)
    zero, one = (step.apply(model, digits, seed=s) for s in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert not zero.training
    assert any(not torch.equal(a, b) for a, b in zip(zero.parameters(), one.parameters(), strict=True))


def test_it_reports_while_it_works(digits: Workload) -> None:
    events: list[Progress] = []
    step = Finetune(epochs=2, lr=1e-5, batch_size=100)
    step.apply(baseline("digits", "mlp"), digits, report=events.append)  # type: ignore[arg-type]
    assert events[-1].step == events[-1].total == 2 * 11  # 1,078 examples


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("epochs", 1.5), ("lr", 0), ("lr", float("nan")), ("batch_size", 0)]
)
def test_a_wrong_setting_is_named(field: str, value: float) -> None:
    with pytest.raises(ModelOptError, match=f"Finetune: {field}="):
        Finetune(**{field: value})


def test_frozen_layers_stay_and_another_model_is_not_mistaken_for_this(digits: Workload) -> None:
    """The same weights, once with a frozen layer: two models, two results."""
    free, frozen = (build(Spec("cnn", (), (1, 8, 8))) for _ in range(2))
    frozen.conv1.requires_grad_(False)  # type: ignore[union-attr]
    frozen.bn1.requires_grad_(False)  # type: ignore[union-attr]
    step = Finetune(epochs=1, lr=1e-2)
    trained, kept = step.apply(free, digits), step.apply(frozen, digits)
    before = frozen.state_dict()
    moved = [
        {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        for model in (trained, kept)
    ]
    assert {name.split(".")[0] for name in moved[0] - moved[1]} == {"conv1", "bn1"}
    assert {name for name, p in kept.named_parameters() if not p.requires_grad} == {
        name for name, _ in kept.named_parameters() if name.startswith(("conv1.", "bn1."))
    }


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine", "codebook"])
@pytest.mark.parametrize("order", ["quantize first", "prune first"])
def test_a_quantized_network_stays_on_its_points_and_pruned(
    bits: int, scheme: str, order: str, digits: Workload
) -> None:
    """No file grows by more than the coding of other codes, every zero stays, and the label is that of the bits."""
    steps = [mo.Prune(ratio=0.5, granularity="weight", recovery="none"), mo.Quantize(bits=bits, scheme=scheme)]  # type: ignore[arg-type]
    coarse = baseline("digits", "cnn")
    for step in steps if order == "prune first" else reversed(steps):
        coarse = step.apply(coarse, digits)
    fine = Finetune(epochs=2, lr=3e-3).apply(coarse, digits)
    layers = [name for name, layer in fine.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for name in layers:
        was, now = coarse.get_submodule(name), fine.get_submodule(name)
        assert weight_grid.codes(now) is not None
        assert not bool(now.weight[was.weight == 0].any())
    assert any(not torch.equal(coarse.get_submodule(n).weight, fine.get_submodule(n).weight) for n in layers)
    assert mopt.sizes(fine).size_bytes < 1.1 * mopt.sizes(coarse).size_bytes
    again = mopt.decode(mopt.encode(fine)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in fine.state_dict().items())


def test_points_that_are_given_up_are_told_of_and_forgotten(digits: Workload) -> None:
    coarse = mo.Quantize(bits=3).apply(baseline("digits", "mlp"), digits)
    told: list[object] = []
    free = Finetune(epochs=1, lr=3e-3, keep_grid=False).apply(coarse, digits, report=told.append)
    assert [event.text for event in told if isinstance(event, Note)] == [
        "the weights of fc1, fc2, fc3 are floats again; keep_grid keeps them on their points"
    ]
    assert all(weight_grid.points_of(layer) is None for layer in free.modules())  # labels and kernels ask for these
    assert mo.measure(coarse, digits).score.how == "simulated"


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("bits", [32, 8])
def test_a_pipeline_that_was_not_measured_trains(bits: int, loaded: bool, digits: Workload, tmp_path: Path) -> None:
    pool = [baseline("digits", name) for name in ("groups", "expert-1", "expert-2", "expert-3")]
    pool = [mo.Prune(ratio=0.6, granularity="weight", recovery="none").apply(model, digits) for model in pool]
    whole: nn.Module = mo.Pipeline(threshold=0.61 + bits / 1000).apply(pool, digits)
    if bits < 32:
        whole = mo.Quantize(bits=bits).apply(whole, digits)
    if loaded:
        whole = mo.load(mo.save(whole, tmp_path / "whole.mopt"))
    trained = Finetune(epochs=1, lr=1e-3).apply(whole, digits)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), trained.parameters(), strict=True))
