"""What a model consists of enters its key: attributes, buffers and hooks as well as weights."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core import identity, jobs
from modelopt_core.cache import STORE, Unkept


class Kind(Enum):
    ONE = 1
    TWO = 2


@dataclass
class Settings:
    k: int = 1
    more: list[int] = field(default_factory=list)


class Foreign:
    pass


def doubled(_module: nn.Module, _args: object, out: torch.Tensor) -> torch.Tensor:
    return 2 * out


def negated(_module: nn.Module, _args: object, out: torch.Tensor) -> torch.Tensor:
    return -out


class Scaled(nn.Module):
    """x -> (linear of x) · k, with whatever else is put on it."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = k
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with torch.no_grad():
            self.inner[1].weight.copy_(torch.linspace(-1, 1, 640).view(10, 64))
            self.inner[1].bias.zero_()
        self.register_buffer("b", torch.ones(2), persistent=False)
        self.cfg = {"a": [1, (2, "x")], "kind": Kind.ONE}
        self.settings = Settings()
        self.table = torch.ones(2)
        self.act: Callable[..., torch.Tensor] = torch.relu
        self.part = functools.partial(torch.flatten, start_dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.k


def written(name: str, at: object, value: object) -> Callable[[Scaled], None]:
    return lambda model: getattr(model, name).__setitem__(at, value)


def assigned(name: str, value: object) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model, name, value)


CHANGES: dict[str, Callable[[Scaled], object]] = {
    "number": assigned("k", -1),
    "kind of number": assigned("k", 1),
    "dtype": assigned("kind", torch.float16),
    "device": assigned("where", torch.device("cpu")),
    "none": assigned("nothing", None),
    "nested dict": lambda m: m.cfg["a"].append(3),
    "enum": written("cfg", "kind", Kind.TWO),
    "set": assigned("chosen", {1, 2}),
    "size": assigned("size", torch.Size([1, 2])),
    "data": lambda m: setattr(m.settings, "k", 2),
    "list in data": lambda m: m.settings.more.append(1),
    "tensor": lambda m: m.table.fill_(2),
    "other tensor": assigned("table", torch.zeros(2)),
    "function": assigned("act", torch.tanh),
    "partial": assigned("part", functools.partial(torch.flatten, start_dim=0)),
    "buffer": lambda m: m.b.fill_(3),
    "buffer's name": lambda m: m.register_buffer("c", m._buffers.pop("b"), persistent=False),
    "buffer that is saved": lambda m: m.register_buffer("b", torch.ones(2)),
    "attribute of a layer": lambda m: setattr(m.inner[0], "end_dim", 2),
    "hook": lambda m: m.register_forward_hook(doubled),
    "hook of a layer": lambda m: m.inner[1].register_forward_hook(negated),
    "hook before": lambda m: m.inner[1].register_forward_pre_hook(doubled),
    "frozen": lambda m: m.inner[1].bias.requires_grad_(False),
    "tied": lambda m: setattr(m, "again", m.inner[1]),
    "weight's type": lambda m: m.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_what_changes_a_model_changes_its_key_and_voids_its_stamp(change):
    before, after = Scaled(), Scaled()
    assert identity.key(before) == identity.key(after)
    identity.stamp(after, "abc")
    assert identity.intact(after)
    change(after)
    assert not identity.intact(after)
    assert identity.key(after) not in ("abc", identity.key(before))
    again = Scaled()
    change(again)
    assert identity.key(again) == identity.key(after), "and equal ones stay equal"
    assert not isinstance(identity.key(again), Unkept)


def test_two_hooks_know_their_order():
    keys = set()
    for hooks in ((doubled, negated), (negated, doubled), (doubled,)):
        model = Scaled()
        for hook in hooks:
            model.register_forward_hook(hook)
        keys.add(identity.key(model))
    assert len(keys) == 3


def test_what_does_not_change_answers_in_eval_mode_is_left_out():
    model = identity.stamp(Scaled(), "abc")
    model.train()
    model.__dict__["notes"] = ("a note",)
    assert identity.key(model) == "abc"
    assert identity.key(Scaled().train()) == identity.key(Scaled().eval())


def local(k: int) -> nn.Module:
    class Local(Scaled):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * k

    return Local()


UNSTABLE: dict[str, Callable[[Scaled], object]] = {
    "closure": lambda m: m.register_forward_hook(lambda _m, _a, out: out),
    "foreign": lambda m: setattr(m, "other", Foreign()),
    "foreign in a list": lambda m: setattr(m, "others", [Foreign()]),
    "method of a foreign": lambda m: setattr(m, "add", [].append),
    "generator": lambda m: setattr(m, "random", torch.Generator()),
}


@pytest.mark.parametrize("change", UNSTABLE.values(), ids=list(UNSTABLE))
def test_what_has_no_value_that_stays_is_never_kept(change):
    model = Scaled()
    change(model)
    identity.stamp(model, "abc")
    assert not identity.intact(model)
    first, second = identity.key(model), identity.key(model)
    assert first != second
    assert isinstance(identity.digest("any", first), Unkept)
    assert identity.unstable(model)


def test_what_lies_inside_itself_is_no_crash():
    model = Scaled()
    model.cfg["whole"] = model.cfg
    assert isinstance(identity.key(model), Unkept)


def test_a_class_that_reads_a_closure_is_never_kept_and_one_written_anew_is_another():
    one, two = local(1), local(2)
    assert isinstance(identity.key(one), Unkept)
    assert identity.key(one) != identity.key(two)
    first = type("Net", (Scaled,), {"forward": lambda self, x: self.inner(x)})
    second = type("Net", (Scaled,), {"forward": lambda self, x: -self.inner(x)})
    assert identity.key(first()) == identity.key(first())
    assert identity.key(first()) != identity.key(second())
    counted = [type("Net", (Scaled,), {"k": k})() for k in (1, 2)]
    assert identity.key(counted[0]) != identity.key(counted[1])


def test_an_array_is_read_each_time():
    models = [Scaled(), Scaled()]
    for model in models:
        model.array = np.ones(2)
    identity.stamp(models[0], "abc")
    assert not identity.intact(models[0])
    assert identity.key(models[0]) == identity.key(models[1])
    models[0].array[0] = 2
    assert identity.key(models[0]) != identity.key(models[1])


def test_a_model_that_keeps_its_last_answer_is_copied_and_not_mistaken():
    model = Scaled()
    model.last = model(torch.ones(1, 64))  # a result with a graph behind it, which PyTorch refuses to copy
    key = identity.key(model)
    assert torch.equal(identity.clone(model).last, model.last)
    model.last = model(torch.zeros(1, 64))
    assert identity.key(model) != key


def test_copies_and_pickles_of_a_stamped_model_have_no_stamp():
    model = identity.stamp(Scaled(), "abc")
    make, given = vars(model)["_identity"].__reduce__()  # what pickle keeps of it
    unpickled = copy.copy(model)
    vars(unpickled)["_identity"] = make(*given)
    for other in (copy.deepcopy(model), unpickled):
        assert not identity.intact(other)
        assert identity.key(other) == identity.key(Scaled())


def test_a_model_changed_by_an_attribute_is_measured_anew():
    """One model, before and after `model.k = -1`; a curve, a step and an ensemble see it, too."""
    w, model = mo.workload("digits"), Scaled().eval()
    before = mo.predictions(model, w).outputs.logits
    small = mo.Prune(ratio=0.3, granularity="weight").apply(model, w)
    model.k = -1.0
    torch.testing.assert_close(mo.predictions(model, w).outputs.logits, -before)
    again = mo.Prune(ratio=0.3, granularity="weight").apply(model, w)
    assert (small.k, again.k) == (1.0, -1.0)
    assert mo.measure(model, w).score != mo.measure(Scaled().eval(), w).score


def test_nothing_of_a_model_with_a_closure_is_kept_across_calls():
    w, model, sign = mo.workload("digits"), Scaled().eval(), [1.0]
    model.register_forward_hook(lambda _m, _a, out: out * sign[0])
    step = mo.Prune(ratio=0.3, granularity="weight")
    said, results = [], []
    STORE.clear()
    for sign[0] in (1.0, -1.0):
        results.append(step.apply(model, w))
        said.append(mo.predictions(model, w, runtime="eager").outputs.logits)
        whole = mo.Ensemble().apply([model, Scaled().eval()], w)
        said.append(mo.predictions(whole, w, runtime="eager").outputs.logits)
        point = next(mo.curve(step, "ratio", model, w, points=2, runtime="eager"))
        said.append(torch.tensor([point.measurement.score.value, mo.measure(model, w, runtime="eager").score.value]))
    torch.testing.assert_close(said[3], -said[0])
    assert not torch.equal(said[1], said[4])
    assert said[2][0] == said[2][1] != said[5][0] == said[5][1]
    assert results[0] is not results[1]
    held = [key for key in STORE._items if isinstance(key, tuple) and any(isinstance(part, Unkept) for part in key)]
    assert held == []


def test_the_graph_of_a_shipped_model_follows_its_attributes():
    w, model = mo.workload("digits"), copy.deepcopy(mo.baseline("digits", "mlp"))
    before = mo.compile(model, w)(w.val.inputs[:5])
    model.relu1.forward = torch.tanh
    after = mo.compile(model, w)(w.val.inputs[:5])
    with torch.no_grad():
        torch.testing.assert_close(after, model(w.val.inputs[:5]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("what", ["closure", "hook", "attribute", "frozen"])
def test_a_job_refuses_a_model_that_its_file_cannot_hold(what, tmp_path):
    model = copy.deepcopy(mo.baseline("digits", "mlp"))
    if what == "closure":
        model.register_forward_hook(lambda _m, _a, out: -out)
    elif what == "hook":
        model.register_forward_hook(negated)
    elif what == "attribute":
        model.flatten.end_dim = 2
    else:
        model.fc1.requires_grad_(False)
    with pytest.raises(
        mo.ModelOptError, match=r"a job gets its model as a file, which cannot hold all of it \(.+\); use apply"
    ):
        jobs.start((mo.Finetune(epochs=1),), [model], "digits", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    if what != "frozen":
        with pytest.raises(mo.ModelOptError, match="cannot be built again from its spec"):
            mo.save(model, tmp_path / "x.mopt")
