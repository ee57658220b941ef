"""The step: what the student is, what it learns from, that its teacher stays as it was, and wrong settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.distill import loop
from modelopt_core.machine.cache import STORE
from modelopt_core.models.spec import Spec, spec_of
from modelopt_core.steps.distill.objective import features, layer_of, logits_on_train, objective, pooled
from modelopt_core.steps.distill.student import scaled, spec_for
from modelopt_core.structure.build import build
from modelopt_core.training.loop import TrainingError, evaluate, fit
from modelopt_core.workloads.workload import Workload

CNN = Spec("cnn", (), (1, 8, 8))
QUICK = {"epochs": 1, "batch_size": 256}


@pytest.fixture(scope="module")
def digits() -> Workload:
    return mo.workload("digits")


def state(model: nn.Module) -> Tensor:
    return torch.cat([t.detach().flatten().float() for t in model.state_dict().values()])


def test_one_step_is_the_one_done_by_hand(digits: Workload) -> None:
    """A linear student, one batch: Adam's first step is lr against the gradient's sign, here of ½ CE + ½ · 4 · KL."""
    few = replace(
        digits, train=replace(digits.train, inputs=digits.train.inputs[:40], targets=digits.train.targets[:40])
    )
    teacher = build(Spec("mlp", (("sizes", (64, 10)),), (1, 8, 8)), seed=5)
    step = mo.Distill(alpha=0.5, temperature=2.0, width=1.0, epochs=1, lr=1e-3, batch_size=40)
    student = build(Spec("mlp", (("sizes", (64, 10)),), (1, 8, 8)), seed=3)
    w = student.get_parameter("fc1.weight").detach().clone().requires_grad_(True)
    x, y = few.train.inputs.flatten(1), few.train.targets
    s, t = x @ w.T + student.get_parameter("fc1.bias").detach(), teacher(few.train.inputs).detach()
    soft_t, soft_s = torch.softmax(t / 2, 1), torch.softmax(s / 2, 1)
    kl = (soft_t * (soft_t.log() - soft_s.log())).sum(1).mean()
    (0.5 * nn.functional.cross_entropy(s, y) + 0.5 * 4 * kl).backward()
    assert w.grad is not None
    moved = step.transform(teacher, few, torch.Generator().manual_seed(3), lambda _: None).get_parameter("fc1.weight")
    sure = w.grad.abs() > 1e-4  # where Adam's ε does not count
    torch.testing.assert_close((moved - w)[sure].detach(), -1e-3 * w.grad.sign()[sure], atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_training_is_the_plain_loop_of_the_paper(digits: Workload, temperature: float) -> None:
    """Ten batches, the last one short: the same weights as the benchmark's loop, with PyTorch's own Adam and cosine."""
    train = replace(digits.train, inputs=digits.train.inputs[:150], targets=digits.train.targets[:150])
    few, teacher = replace(digits, train=train, data_hash="few"), mo.baseline("digits", "cnn")
    step = mo.Distill(temperature=temperature, width=1.0, epochs=2, lr=1e-2, batch_size=32)
    *_, plain = loop.plain(step, teacher, few, seed=3)
    ours = step.apply(teacher, few, seed=3)
    first, last = (evaluate(model, few, few.val)[0] for model in (build(CNN, 3), plain))
    assert last > first  # of the epochs the last is the best on val, so that it is the one that comes back
    torch.testing.assert_close(state(ours), state(plain), atol=1e-5, rtol=0)


def test_without_a_teacher_it_is_plain_training(digits: Workload) -> None:
    teacher = mo.baseline("digits", "cnn")
    step = mo.Distill(alpha=0, width=0.25, **QUICK)
    plain = fit(build(scaled(CNN, 0.25), 7), digits, epochs=1, lr=step.lr, batch_size=256, seed=7)
    assert torch.equal(state(step.apply(teacher, digits, seed=7)), state(plain))
    assert not torch.equal(state(step.changed(alpha=0.5).apply(teacher, digits, seed=7)), state(plain))


@pytest.mark.parametrize("loss", list(mo.LOSSES))
def test_the_teacher_stays_as_it_was_and_gets_no_gradients(digits: Workload, loss: str) -> None:
    teacher = mo.baseline("digits", "cnn")
    before, modes = state(teacher).clone(), []
    teacher.register_forward_hook(lambda m, *_: modes.append((m.training, torch.is_grad_enabled())))
    STORE.clear()
    student = mo.Distill(loss=loss, **QUICK).apply(teacher, digits)  # on a copy of the teacher, with its hooks
    assert torch.equal(state(teacher), before)
    assert all(p.grad is None for p in teacher.parameters())
    assert set(modes) == {(False, False)}
    assert not student.training
    assert bool(torch.isfinite(state(student)).all())


@pytest.mark.parametrize("loss", list(mo.LOSSES))
def test_a_student_comes_nearer_to_its_teacher(digits: Workload, loss: str) -> None:
    """The loss itself, on train, before and after training with it alone."""
    teacher, student = mo.baseline("digits", "cnn"), build(scaled(CNN, 0.5), 0)
    draw = torch.Generator().manual_seed(0)
    aim = objective(loss, teacher, student, digits, alpha=1.0, temperature=2.0, layers=("", ""), generator=draw)
    train, everything = digits.train, torch.arange(len(digits.train))
    untrained = {name: t.clone() for name, t in aim.learned.state_dict().items()}
    with torch.no_grad():
        before = aim.loss(student, train.inputs, train.targets, everything)
    trained = fit(student, digits, epochs=6, lr=1e-2, batch_size=32, objective=aim)
    with torch.no_grad():
        assert aim.loss(trained, train.inputs, train.targets, everything) < 0.8 * before
    moved = [not torch.equal(t, untrained[name]) for name, t in aim.learned.state_dict().items()]
    assert moved == ([True, True] if loss == "hint" else []), "the projection learns too, and only where there is one"


def test_logits_on_train_are_the_teachers(digits: Workload) -> None:
    teacher = mo.baseline("digits", "mlp")
    kept = logits_on_train(teacher, digits)
    assert kept.shape == (len(digits.train), 1, 10)
    torch.testing.assert_close(kept[:, 0], teacher(digits.train.inputs).detach())
    assert logits_on_train(mo.baseline("digits", "mlp"), digits) is kept


@pytest.mark.parametrize(
    ("teacher", "student", "width", "parameters"),
    [
        ("cnn", "own", 0.25, {"width1": 4, "width2": 8, "hidden": 8, "classes": 10}),
        ("cnn", "own", 1e-9, {"width1": 1, "width2": 1, "hidden": 1, "classes": 10}),
        ("cnn", "mlp", 0.5, {"sizes": (64, 32, 16, 10)}),
        ("mlp", "own", 1.0, {"sizes": (64, 64, 32, 10)}),
    ],
)
def test_the_student_is_what_was_asked_for(
    digits: Workload, teacher: str, student: str, width: float, parameters: dict[str, object]
) -> None:
    spec = spec_for(student, width, mo.baseline("digits", teacher), digits)
    assert dict(spec.arguments) == parameters
    assert build(spec)(digits.example).shape == (1, 10)


@pytest.mark.parametrize(
    "pair", [("digits", "cnn"), ("digits", "mlp"), ("docstrings", "bag"), ("docstrings", "textcnn")]
)
@pytest.mark.parametrize("width", [0.01, 0.5, 2.0])
def test_every_architecture_has_a_width(pair: tuple[str, str], width: float) -> None:
    w, teacher = mo.workload(pair[0]), mo.baseline(*pair)
    student = build(spec_for("own", width, teacher, w))
    counts = [sum(p.numel() for p in m.parameters()) for m in (student, teacher)]
    assert (counts[0] < counts[1]) == (width < 1)
    assert student(w.example).shape == teacher(w.example).shape


def test_a_pruned_teachers_own_student_has_its_proportions(digits: Workload) -> None:
    pruned = mo.Prune(ratio=0.5).apply(mo.baseline("digits", "cnn"), digits)
    student = build(spec_for("own", 0.5, pruned, digits))
    (a, _), (b, _) = ([m for m in model.modules() if isinstance(m, nn.Conv2d)] for model in (pruned, student))
    assert b.out_channels * 2 == a.out_channels


@pytest.mark.parametrize("loss", ["hint", "attention"])
def test_features_of_unlike_networks(loss: str) -> None:
    """A teacher with more positions is averaged down to the student's."""
    w = mo.workload("docstrings")
    teacher, student = (build(Spec("textcnn", (("classes", 7), ("kernel", k)), (48,), "int64")) for k in (3, 5))
    layers = layer_of(student, "conv1", loss), layer_of(teacher, "conv1", loss)
    own, theirs = (features(m, at, w.example, w)[1] for m, at in zip((student, teacher), layers, strict=True))
    assert own.shape == pooled(theirs, own).shape
    wide = torch.arange(8.0).reshape(1, 1, 8)
    torch.testing.assert_close(pooled(wide, torch.zeros(1, 3, 4)), torch.tensor([[[0.5, 2.5, 4.5, 6.5]]]))


def test_a_teacher_of_the_users_own_class_can_teach(digits: Workload) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, 10)).eval()
    assert mo.Distill(student="mlp", loss="hint", teacher_layer="1", **QUICK).apply(teacher, digits)
    with pytest.raises(mo.ModelOptError, match="own kind needs .* Sequential is none; choose student from cnn, mlp"):
        mo.Distill(**QUICK).apply(teacher, digits)


@pytest.mark.parametrize("step", [mo.Ensemble(), mo.Cascade()], ids=lambda step: step.name)
def test_several_models_can_teach(digits: Workload, step: mo.Combine) -> None:
    teacher = step.apply([mo.baseline("digits", name) for name in digits.models], digits)
    kept = logits_on_train(teacher, digits)
    torch.testing.assert_close(kept[:, 0], teacher(digits.train.inputs).detach(), atol=1e-4, rtol=1e-4)
    student = mo.Distill(student="mlp", **QUICK).apply(teacher, digits)
    assert not torch.equal(state(student), state(mo.Distill(student="mlp", alpha=0, **QUICK).apply(teacher, digits)))
    with pytest.raises(mo.ModelOptError, match="of one known architecture"):
        mo.Distill(**QUICK).apply(teacher, digits)


def test_a_student_trained_before_is_not_trained_again(digits: Workload) -> None:
    teacher, step = mo.baseline("digits", "mlp"), mo.Distill(**QUICK)
    assert step.apply(teacher, digits, seed=2) is step.apply(mo.baseline("digits", "mlp"), digits, seed=2)
    assert step.lasts(digits)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("alpha", -0.1, "a number ≥ 0 and ≤ 1"),
        ("alpha", 1.5, "a number ≥ 0 and ≤ 1"),
        ("alpha", float("nan"), "a number ≥ 0 and ≤ 1"),
        ("temperature", 0, "a number > 0 and ≤ 1000"),
        ("temperature", -4, "a number > 0 and ≤ 1000"),
        ("width", 0, "a number > 0 and ≤ 8"),
        ("epochs", 0, "a whole number ≥ 1 and ≤ 1000"),
    ],
)
def test_a_wrong_setting_is_named(field: str, value: float, allowed: str) -> None:
    with pytest.raises(mo.ModelOptError, match=f"Distill: {field}={value} is not allowed; {field} must be {allowed}"):
        mo.Distill(**{field: value})


def test_unknown_names_list_the_known_ones(digits: Workload) -> None:
    with pytest.raises(mo.ModelOptError, match=r"unknown loss 'ki'; choose from attention, dkd, hint, kl, mse_logits"):
        mo.Distill(loss="ki")
    with pytest.raises(
        mo.ModelOptError, match="unknown student for digits 'lenet5'.*; choose from cnn, cnn-2, mlp, own"
    ):
        mo.Distill(student="lenet5").apply(mo.baseline("digits", "cnn"), digits)


def test_a_teacher_of_other_classes_is_refused(digits: Workload) -> None:
    seven = build(Spec("cnn", (("classes", 7),), (1, 8, 8)))
    with pytest.raises(mo.ModelOptError, match="the student has 10 classes and the teacher 7; choose a student with 7"):
        mo.Distill(student="mlp").apply(seven, digits)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"loss": "hint", "student_layer": "fc9"}, "Cnn has no layer 'fc9'; choose from conv1, conv2, fc1, fc2"),
        ({"loss": "hint", "teacher_layer": "fc9"}, "Cnn has no layer 'fc9'; choose from conv1, conv2, fc1, fc2"),
        ({"loss": "hint", "student_layer": "conv2"}, "layers 'conv2' .* and 'fc1' .* can't be compared; choose two"),
        ({"loss": "attention", "student": "mlp"}, "Sequential has no layer for attention; name one, or choose kl"),
        ({"loss": "attention", "student_layer": "fc1", "teacher_layer": "fc1"}, r"must .*positions|have positions"),
    ],
)
def test_layers_that_do_not_exist_or_do_not_fit_are_named(digits: Workload, how: dict[str, str], text: str) -> None:
    with pytest.raises(mo.ModelOptError, match=text):
        mo.Distill(**how).apply(mo.baseline("digits", "cnn"), digits)


@pytest.mark.parametrize("loss", ["kl", "mse_logits"])
def test_a_training_that_breaks_down_keeps_the_best(digits: Workload, loss: str) -> None:
    step = mo.Distill(lr=1e9, loss=loss, epochs=30)
    with pytest.raises(TrainingError, match="choose lr below 1e\\+09") as broken:
        step.apply(mo.baseline("digits", "cnn"), digits)
    best = broken.value.best
    assert bool(torch.isfinite(state(best)).all())
    assert spec_of(best) is not None
    assert 0 <= evaluate(best, digits, digits.val)[0] <= 1


def test_a_checkpoint_is_of_one_teacher_loss_and_temperature(digits: Workload) -> None:
    """The key under which a training is found again differs wherever what is learned differs, and only there."""
    teacher, other = mo.baseline("digits", "cnn"), mo.baseline("digits", "mlp")
    student, draw = build(CNN), torch.Generator()

    def key(name: str, of: nn.Module, alpha: float, temperature: float) -> str:
        aim = objective(
            name, of, student, digits, alpha=alpha, temperature=temperature, layers=("", ""), generator=draw
        )
        return aim.key

    keys = [
        key("kl", teacher, 0.5, 2.0), key("dkd", teacher, 0.5, 2.0), key("kl", other, 0.5, 2.0),
        key("kl", teacher, 0.6, 2.0), key("kl", teacher, 0.5, 3.0), key("hint", teacher, 0.5, 2.0),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key("kl", mo.baseline("digits", "cnn"), 0.5, 2.0) == keys[0]
    assert all(a != b for a, b in pairwise(sorted(keys)))


class Kept:
    """A Keeper that holds what it was given, as a job does."""

    def __init__(self, data: bytes | None = None, stop_at: int = 0) -> None:
        self.data, self.stop_at, self.asked = data, stop_at, ""

    def __call__(self, event: object) -> None:
        if isinstance(event, mo.Progress) and event.checkpoint and self.stop_at == event.values["epoch"]:
            self.data = event.checkpoint()
            raise KeyboardInterrupt

    def recall(self, training: str) -> bytes | None:
        self.asked = training
        return self.data


def test_a_killed_distillation_goes_on_with_the_same_bits(digits: Workload) -> None:
    """With a hint, whose projection has moments of its own in the optimizer."""
    teacher, step = mo.baseline("digits", "cnn"), mo.Distill(loss="hint", epochs=4, batch_size=256)
    whole = step.transform(teacher, digits, torch.Generator().manual_seed(0), Kept())
    first = Kept(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        step.transform(teacher, digits, torch.Generator().manual_seed(0), first)
    second = Kept(first.data)
    again = step.transform(teacher, digits, torch.Generator().manual_seed(0), second)
    assert first.asked == second.asked != ""
    assert torch.equal(state(again), state(whole))
