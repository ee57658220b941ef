"""Nothing that is not finite, no label outside the classes, no answer of another shape gets through any entrance."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.models import composite, sound
from modelopt_core.workloads.workload import Workload

Entrance = Callable[[nn.Module, Workload], object]
ENTRANCES: dict[str, Entrance] = {
    "prune": lambda m, w: mo.Prune(granularity="weight").apply(m, w),
    "quantize": lambda m, w: mo.Quantize().apply(m, w),
    "finetune": lambda m, w: mo.Finetune(epochs=1).apply(m, w),
    "distill": lambda m, w: mo.Distill(epochs=1).apply(m, w),
    "ensemble": lambda m, w: mo.Ensemble().apply([m, m], w),
    "cascade": lambda m, w: mo.Cascade().apply([m, m], w),
    "fuse": lambda m, w: mo.Fuse(of="outputs").apply([m, m], w),
    "measure": lambda m, w: mo.measure(m, w),
    "predictions": lambda m, w: mo.predictions(m, w),
    "eager": lambda m, w: mo.predictions(m, w, runtime="eager"),
    "compare": lambda m, w: mo.compare(mo.baseline("digits", "mlp"), m, w),
    "compile": lambda m, w: mo.compile(m, w),
    "export": lambda m, w: mo.export_onnx(m, w, "never.onnx"),
    "run": lambda m, w: mo.run((), [m], w),
    "curve": lambda m, w: next(mo.curve(mo.Prune(granularity="weight"), "ratio", m, w)),
}
FILES: dict[str, Entrance] = {
    "save": lambda m, w: mo.save(m, "never.mopt"),
    "safetensors": lambda m, w: mo.export_safetensors(m, "never.st"),
    "layers": lambda m, w: mo.layers(m, w.example),
}


def poisoned(model: str, tensor: str, value: float) -> nn.Module:
    """The shipped model with one number changed."""
    broken = copy.deepcopy(mo.baseline("digits", model))
    with torch.no_grad():
        broken.state_dict()[tensor].view(-1)[1] = value
    return broken


@pytest.mark.parametrize("entrance", [*ENTRANCES.values(), *FILES.values()], ids=[*ENTRANCES, *FILES])
@pytest.mark.parametrize(
    ("tensor", "value", "why"),
    [
        ("conv1.weight", torch.nan, r"1 of 144 numbers of conv1.weight are not finite \(nan at place 1\)"),
        ("fc2.bias", torch.inf, r"1 of 10 numbers of fc2.bias are not finite \(inf at place 1\)"),
        ("bn1.running_mean", -torch.inf, "numbers of bn1.running_mean are not finite"),
        ("bn1.running_var", -0.5, "bn1.running_var is -0.5 at place 1, and no variance is below zero"),
    ],
    ids=["weight", "bias", "mean", "variance"],
)
def test_a_number_that_can_t_be_is_named_at_every_entrance(entrance, tensor, value, why):
    with pytest.raises(mo.ModelOptError, match=why):
        entrance(poisoned("cnn", tensor, value), mo.workload("digits"))


class Answers(nn.Module):
    """A linear model whose answer is put into another shape."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape, self.fc = shape, nn.Linear(64, 7 if shape == "seven" else 10)

    def forward(self, x: Tensor) -> object:
        y = self.fc(x.flatten(1))
        if self.shape == "tuple":
            return y, y
        return {"flat": y[:, 0], "column": y[:, :, None], "whole": (y > 0).long()}.get(self.shape, y)


@pytest.mark.parametrize("entrance", ENTRANCES.values(), ids=ENTRANCES)
@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ("flat", r"float32 \(1,\)"),
        ("column", r"float32 \(1, 10, 1\)"),
        ("tuple", "puts out (a tuple|2 tensors)"),
        ("whole", r"int64 \(1, 10\)"),
    ],
)
def test_an_answer_of_another_shape_is_told_at_every_entrance(entrance, shape, why):
    with pytest.raises(mo.ModelOptError, match=why):
        entrance(Answers(shape).eval(), mo.workload("digits"))


@pytest.mark.parametrize("what", ["measure", "predictions", "eager", "compare", "run"])
def test_an_answer_to_no_question_of_the_workload_has_no_score(what):
    with pytest.raises(mo.ModelOptError, match="answers with 7 classes where 2 or 3 or 4 or 10 or 64 are asked for"):
        ENTRANCES[what](Answers("seven").eval(), mo.workload("digits"))


@pytest.mark.parametrize("what", ["measure", "prune", "finetune", "quantize", "layers", "export", "safetensors", "run"])
def test_a_network_without_parameters_is_one_sentence(what):
    with pytest.raises(mo.ModelOptError, match=r"\(Sequential\) has no parameters; give a network that has weights"):
        (ENTRANCES | FILES)[what](nn.Sequential(nn.Flatten(), nn.Softmax(1)).eval(), mo.workload("digits"))


@pytest.mark.parametrize("bare", ["cnn", [mo.Prune()], None], ids=["name", "list", "none"])
def test_what_is_no_model_is_one_sentence(bare):
    w = mo.workload("digits")
    for what in ("prune", "measure", "predictions", "compile"):
        with pytest.raises(mo.ModelOptError, match="give a network"):
            ENTRANCES[what](bare, w)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.Linear(64, 10)])
def test_one_model_is_no_pool(model):
    w = mo.workload("digits")
    for call in (lambda: mo.run((), model, w), *(lambda s=s: s().apply(model, w) for s in (mo.Ensemble, mo.Fuse))):
        with pytest.raises(
            mo.ModelOptError, match=r"takes a list of models, not a (Sequential|Linear); write \[model\]"
        ):
            call()


def test_no_model_and_no_curve():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    with pytest.raises(mo.ModelOptError, match="Cascade needs a model to make exits in, the pool has none"):
        mo.Cascade(stages="exits").apply([], w)
    with pytest.raises(mo.ModelOptError, match="Prune has no knob 'sparsity'; choose from ratio"):
        next(mo.curve(mo.Prune(), "sparsity", model, w))
    with pytest.raises(mo.ModelOptError, match="a curve is of a step that changes one model, Cascade makes one"):
        next(mo.curve(mo.Cascade(), "threshold", model, w))


@pytest.mark.parametrize("label", [-1, 10, 255])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_label_outside_the_classes_is_named(split, label):
    w = mo.workload("digits")
    targets = w.split(split).targets.clone()
    targets[3] = label
    with pytest.raises(
        mo.ModelOptError, match=f"{split} of digits has the label {label} at place 3; its 10 classes are 0 to 9"
    ):
        replace(w, **{split: replace(w.split(split), targets=targets)})


def test_a_mask_of_infinities_is_no_fault_but_what_hides_all_is():
    w = mo.workload("digits")
    for hidden in (3, 10):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Masked(hidden)).eval()
        sound.check(model)
        if hidden == 3:
            assert mo.measure(model, w, runtime="eager").score.n == len(w.val)
        else:
            with pytest.raises(
                mo.ModelOptError, match="input 0 with -inf at best; its weights are too large, or a mask"
            ):
                mo.measure(model, w, runtime="eager")


class Masked(nn.Module):
    """Some classes are impossible."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.zeros(10).index_fill_(0, torch.arange(hidden), -torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mask


@pytest.mark.parametrize("weights", [(1e308, 1e308), (1e39, 1e39), (1e-50, 1e-50), (5e-324, 5e-324), (3.0, 3.0)])
def test_weights_of_any_size_are_shares(weights):
    w, pool = mo.workload("digits"), [mo.baseline("digits", "mlp"), mo.baseline("digits", "mlp")]
    assert composite.shares(weights).tolist() == [0.5, 0.5]
    assert mo.Ensemble(weights=weights).apply(pool, w).weights.tolist() == [0.5, 0.5]
    fused = mo.Fuse(weights=weights, align="none", recovery="none").apply(pool, w)
    for name, tensor in fused.state_dict().items():
        torch.testing.assert_close(tensor, pool[0].state_dict()[name])


def test_weights_that_differ_by_all_there_is():
    assert composite.shares((1e308, 0.0, 1e308)).tolist() == [0.5, 0.0, 0.5]
    assert composite.shares((1e39, 1.0)).tolist() == pytest.approx([1.0, 1e-39])
    assert composite.shares((1e-320, 3e-320)).tolist() == pytest.approx([0.25, 0.75], rel=1e-3)


@pytest.mark.parametrize("merge", ["task_arithmetic", "ties"])
def test_a_variance_below_zero_names_tensor_and_member(merge):
    """Base 1, members 1 and 0.1: 1 + 4 · (0.1 − 1) is −2.6."""
    w, base = mo.workload("digits"), mo.baseline("digits", "cnn")
    pool = [base, copy.deepcopy(base), copy.deepcopy(base)]
    for at, value in enumerate((1.0, 1.0, 0.1)):
        pool[at] = copy.deepcopy(base)
        pool[at].bn1.running_var.fill_(value)
    step = mo.Fuse(merge=merge, scale=4, align="none", recovery="none", density=1.0)
    with pytest.raises(mo.ModelOptError, match=r"bn1.running_var is -2.6.*model 3 moves it most") as told:
        step.apply(pool, w)
    assert "the models have 1, 1, 0.1 there" in str(told.value)
    assert "\n" not in str(told.value)


def test_what_a_composite_holds_is_named_by_its_member():
    w, pool = mo.workload("digits"), [mo.baseline("digits", "mlp"), mo.baseline("digits", "cnn")]
    whole = copy.deepcopy(mo.Ensemble().apply(pool, w))
    with torch.no_grad():
        whole.members[1].fc2.bias[0] = torch.nan
    with pytest.raises(mo.ModelOptError, match="1 of 10 numbers of fc2.bias of its model 2 are not finite"):
        mo.measure(whole, w)
    with pytest.raises(mo.ModelOptError, match="model 2 of Ensemble cannot be used: .* fc2.bias"):
        mo.Ensemble().apply([pool[0], whole.members[1]], w)
