"""The training loop on problems small enough to know the answer, then its promises."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelopt_core import workloads  # noqa: F401  importing it registers them
from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Progress
from modelopt_core.models.spec import Spec
from modelopt_core.structure.build import build
from modelopt_core.training.loop import TrainingError, evaluate, fit
from modelopt_core.training.norms import reestimate_norms
from modelopt_core.workloads.augment import shift
from modelopt_core.workloads.workload import Classification, Split, Workload, workload


@pytest.fixture(scope="module")
def digits() -> Workload:
    return workload("digits")


@pytest.fixture
def points() -> Classification:
    """Two classes on either side of x = y, with a gap between them; one line separates them."""
    x = torch.rand(600, 2, generator=torch.Generator().manual_seed(0))
    x = x[(x[:, 0] - x[:, 1]).abs() > 0.1][:400]
    y = (x[:, 0] > x[:, 1]).long()
    parts = [Split(x[at], y[at], range(at.start, at.stop)) for at in (slice(0, 200), slice(200, 300), slice(300, 400))]
    return Classification("points", "Points", "image", "accuracy", ("a", "b"), *parts, ("mlp",), 0.5, "00")


LINE = Spec("mlp", (("sizes", (2, 2)),), (2,))
CNN = Spec("cnn", (("hidden", 8), ("width1", 4), ("width2", 8)), (1, 8, 8))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([t.detach().flatten().float() for t in model.state_dict().values()])


def backwards(workload: Classification) -> Classification:
    """The workload with its train labels turned round: whoever learns from it gets worse on val."""
    return replace(workload, train=replace(workload.train, targets=1 - workload.train.targets))


def test_one_sgd_step_is_the_one_done_by_hand(points: Classification) -> None:
    """Softmax regression from zero: p = ½, so the gradient of w_k is mean((½ − [y = k]) x)."""
    model = build(LINE)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    x, y = points.train.inputs, points.train.targets
    gradient = torch.stack([((0.5 - (y == k).float())[:, None] * x).mean(0) for k in (0, 1)])
    trained = fit(model, points, epochs=1, lr=0.1, batch_size=200, optimizer="sgd", schedule="constant")
    # Nesterov's first step is (1 + momentum) · lr · gradient
    torch.testing.assert_close(trained.get_submodule("fc1").weight.detach(), -1.9 * 0.1 * gradient)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_separable_points_are_separated(points: Classification, optimizer: str) -> None:
    model = fit(build(LINE), points, epochs=40, lr=0.1, optimizer=optimizer)  # type: ignore[arg-type]
    assert evaluate(model, points, points.test)[0] >= 0.97


def test_evaluate_is_the_mean_over_examples_whatever_the_batches(digits: Workload) -> None:
    model = build(Spec("cnn", (), (1, 8, 8)))
    logits = model(digits.train.inputs).detach()  # 1,078 examples: one whole batch and a short one
    score, loss = evaluate(model, digits, digits.train)
    assert score == pytest.approx(float((logits.argmax(1) == digits.train.targets).float().mean()), abs=1e-6)
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, digits.train.targets)), abs=1e-5)


def test_the_input_is_untouched_and_the_result_is_a_new_model_in_eval_mode(digits: Workload) -> None:
    model = build(CNN).train()
    before = weights(model).clone()
    trained = fit(model, digits, epochs=1, lr=1e-2)
    assert torch.equal(weights(model), before)
    assert model.training
    assert not trained.training
    assert not torch.equal(weights(trained), before)
    assert all(p.grad is None for p in trained.parameters())


def test_nothing_is_drawn_from_torchs_own_generator(points: Classification) -> None:
    """Three tries: threads that other tests left behind may build models meanwhile."""

    def untouched() -> bool:
        state = torch.get_rng_state()
        fit(build(LINE), points, epochs=2, lr=0.1)
        return torch.equal(torch.get_rng_state(), state)

    assert any(untouched() for _ in range(3))


def test_a_seed_gives_the_same_weights_bit_for_bit(digits: Workload) -> None:
    a, b, c = (fit(build(CNN), digits, epochs=1, lr=1e-2, augment=shift, seed=s) for s in (3, 3, 4))
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(c))


def test_it_trains_where_gradients_are_switched_off(points: Classification) -> None:
    with torch.no_grad():
        model = fit(build(LINE), points, epochs=30, lr=0.1)
    assert evaluate(model, points, points.val)[0] > 0.9


def test_the_best_epoch_is_returned_and_the_start_is_one_of_them(points: Classification) -> None:
    good = fit(build(LINE), points, epochs=30, lr=0.1)
    spoiled = fit(
        good, replace(points, train=replace(points.train, targets=1 - points.train.targets)), epochs=3, lr=1.0
    )
    assert torch.equal(weights(spoiled), weights(good))


def test_no_epochs_give_an_equal_copy(points: Classification) -> None:
    model = build(LINE)
    copied = fit(model, points, epochs=0, lr=0.1)
    assert copied is not model
    assert torch.equal(weights(copied), weights(model))


def test_patience_stops_early(points: Classification) -> None:
    epochs: list[float] = []
    model = fit(build(LINE), points, epochs=30, lr=0.1)
    fit(model, backwards(points), epochs=50, lr=1.0, patience=2, report=lambda e: epochs.append(e.values["epoch"]))  # type: ignore[attr-defined]
    assert max(epochs) == 2


def test_zeros_stay_zero_on_request_and_biases_may_move(digits: Workload) -> None:
    model = build(CNN)
    with torch.no_grad():
        model.conv2.weight.flatten()[::2] = 0
    trained = fit(model, digits, epochs=1, lr=1e-2, keep_zeros=True)
    assert torch.equal(trained.conv2.weight == 0, model.conv2.weight == 0)
    assert bool((trained.bn1.bias != 0).any())
    assert bool((fit(model, digits, epochs=1, lr=1e-2).conv2.weight != 0).all())


def test_progress_comes_every_epoch_and_counts_batches(points: Classification) -> None:
    events: list[Progress] = []
    fit(build(LINE), points, epochs=3, lr=0.1, batch_size=64, report=events.append)  # type: ignore[arg-type]
    assert [e.step for e in events] == [4, 8, 12]
    assert {e.total for e in events} == {12}
    assert all(e.phase == "train" and {"epoch", "loss", "score"} <= e.values.keys() for e in events)


@pytest.mark.parametrize("lr", [1e9, 1e30])
def test_a_loss_that_explodes_is_an_error_that_keeps_the_best_model(digits: Workload, lr: float) -> None:
    model = build(CNN)
    with pytest.raises(
        TrainingError, match=r"loss is (nan|inf|\S+e\+\d+) in epoch \d+; choose lr below 1e\+"
    ) as caught:
        fit(model, digits, epochs=20, lr=lr, schedule="constant", optimizer="sgd")
    assert bool(torch.isfinite(weights(caught.value.best)).all())
    assert not caught.value.best.training


def test_a_batch_with_nan_leaves_the_best_model_finite(points: Classification) -> None:
    poisoned = points.train.inputs.clone()
    poisoned[150] = math.nan
    with pytest.raises(TrainingError, match="loss is nan in epoch 1"):
        fit(build(LINE), replace(points, train=replace(points.train, inputs=poisoned)), epochs=2, lr=0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": -1}, "epochs=-1 is not allowed; choose 0 or more"),
        ({"lr": 0.0}, "lr=0.0 is not allowed; choose a finite number above 0"),
        ({"lr": math.nan}, "lr=nan is not allowed"),
        ({"batch_size": 0}, "batch_size=0 is not allowed; choose 1 or more"),
        ({"optimizer": "sdg"}, r"unknown optimizer 'sdg' \(did you mean 'sgd'\?\); choose from adam, sgd"),
        ({"schedule": "step"}, "unknown schedule 'step'; choose from constant, cosine"),
    ],
)
def test_wrong_settings_are_named(points: Classification, setting: dict[str, object], message: str) -> None:
    with pytest.raises(ModelOptError, match=message):
        fit(build(LINE), points, **{"epochs": 1, "lr": 0.1, **setting})  # type: ignore[arg-type]


def test_reestimated_statistics_are_those_of_the_train_split(digits: Workload) -> None:
    model = build(CNN)
    with torch.no_grad():
        activations = model.conv1(digits.train.inputs[:1000])  # (1000, 4, 8, 8)
    first = replace(digits, train=replace(digits.train, inputs=digits.train.inputs[:1000]))
    again = reestimate_norms(model, first)
    torch.testing.assert_close(again.bn1.running_mean, activations.mean((0, 2, 3)), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(again.bn1.running_var, activations.var((0, 2, 3)), atol=1e-6, rtol=1e-4)
    assert again.bn1.momentum == model.bn1.momentum
    assert bool((model.bn1.running_mean == 0).all())
    assert not any(m.training for m in again.modules())


def test_reestimation_repairs_a_scaled_layer(digits: Workload) -> None:
    model = fit(build(CNN), digits, epochs=4, lr=1e-2)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.conv2.weight *= 5
    healthy = evaluate(model, digits, digits.val)[0]
    assert evaluate(broken, digits, digits.val)[0] < healthy - 0.02
    assert evaluate(reestimate_norms(broken, digits), digits, digits.val)[0] > healthy - 0.02


def test_reestimation_without_norms_is_an_equal_copy_and_one_example_is_no_error(digits: Workload) -> None:
    model = build(Spec("mlp", (("sizes", (64, 10)),), (1, 8, 8)))
    assert torch.equal(weights(reestimate_norms(model, digits)), weights(model))
    single = replace(digits, train=replace(digits.train, inputs=digits.train.inputs[:1]))
    assert bool(torch.isfinite(weights(reestimate_norms(build(CNN), single))).all())


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_by_hand(points: Classification, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six batches: half a cosine from 0.1 down to nearly nothing, or 0.1 all the way."""
    module, seen = sys.modules["modelopt_core.training.loop"], []
    real = module._step

    def step(update: torch.optim.Optimizer, minimise: Any) -> float:
        seen.append(update.param_groups[0]["lr"])
        return float(real(update, minimise))

    monkeypatch.setattr(module, "_step", step)
    fit(build(LINE), points, epochs=2, lr=0.1, batch_size=80, schedule=schedule)  # type: ignore[arg-type]
    falling = [0.1, 0.0933, 0.075, 0.05, 0.025, 0.0067]
    assert seen == pytest.approx(falling if schedule == "cosine" else [0.1] * 6, abs=1e-4)
