"""Learned fusion: heads by hand, the folds' honesty, scikit-learn's stacking on the same members, files and graphs."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models.spec import Composition, Spec
from modelopt_core.runtime.onnx_export import onnx_bytes
from modelopt_core.steps.fuse import Joined, Stacked, learned, reads
from modelopt_core.steps.fuse.heads import Trunk, last_layer
from modelopt_core.steps.fuse.learn import VARIED, _directions
from modelopt_core.structure.build import build
from modelopt_core.structure.layer_inputs import calls
from modelopt_core.structure.layer_table import macs
from modelopt_core.tasks.statistics import mcnemar
from modelopt_core.training.logistic import fit

LEARNED = ("outputs", "features")


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def pool():
    return [mo.baseline("digits", name) for name in ("cnn", "mlp")]


def test_a_stacked_head_by_hand():
    """Two members, two classes: half of what each says is their geometric mean; a head that reads one gives that."""
    members = [nn.Sequential(nn.Flatten(), nn.Linear(2, 2)) for _ in range(2)]
    whole = Stacked(members, 2).eval()
    said = torch.tensor([[[0.8, 0.2]], [[0.5, 0.5]]]).log()
    with torch.no_grad():
        whole.head.weight.copy_(torch.tensor([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]))
        assert whole.answer(said).exp()[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)  # √0.4 : √0.1
        whole.head.weight.copy_(torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1]]))
        torch.testing.assert_close(whole.answer(said), said[1])


def test_a_strong_pull_only_weighs_the_members(w, pool):
    """All that is left to find is how much each counts: of outputs, every member's block is a number times identity."""
    outputs, features = (mo.Fuse(of=of, strengths=(1e4,)).apply(pool, w) for of in LEARNED)
    with torch.no_grad():
        counts = []
        for part in reads(outputs):
            counts.append(part.diagonal().mean())
            torch.testing.assert_close(part, counts[-1] * torch.eye(10), atol=1e-3, rtol=0)
        x = w.test.inputs
        mixed = sum(c * torch.log_softmax(model(x), 1) for c, model in zip(counts, pool, strict=True))
        torch.testing.assert_close(outputs(x), torch.log_softmax(mixed, 1), atol=2e-2, rtol=1e-2)
        for part, model in zip(reads(features), pool, strict=True):
            own = model.get_submodule(last_layer(model, w)).weight.t()
            count = (part * own).sum() / own.square().sum()
            torch.testing.assert_close(part, count * own, atol=1e-3, rtol=0)


def test_features_are_what_the_last_layers_read(w, pool):
    whole = mo.Fuse(of="features", strengths=(0.1,)).apply(pool, w)
    assert isinstance(whole, Joined)
    x = w.val.inputs[:7]
    for trunk, model, name in zip(whole.members, pool, ("fc2", "fc3"), strict=True):
        assert isinstance(trunk, Trunk)
        assert last_layer(model, w) == name
        ((_, call),) = calls(model, {name: model.get_submodule(name)}, w, x)
        torch.testing.assert_close(trunk(x), call.x)
    assert whole.head.in_features == 32 + 32


@pytest.mark.parametrize("of", LEARNED)
def test_the_val_score_is_the_folds(of, w, pool):
    """A head for every fold, fitted here by itself, says the same of the examples that it has not seen."""
    whole, y = mo.Fuse(of=of, strengths=(0.1,), folds=3).apply(pool, w, seed=7), w.val.targets
    with torch.no_grad():
        if of == "outputs":
            x = stacked(pool, w).transpose(0, 1).flatten(1)
            start, rows = torch.cat([torch.eye(10) / 2, torch.eye(10) / 2, torch.zeros(1, 10)]), 10
        else:
            x = torch.cat([trunk(w.val.inputs) for trunk in whole.members], 1)
            last = [model.get_submodule(last_layer(model, w)) for model in pool]
            start = torch.cat([*(layer.weight.t() / 2 for layer in last), sum(layer.bias for layer in last)[None] / 2])
            rows = 32
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
        fold = torch.randperm(len(y), generator=torch.Generator().manual_seed(7)) % 3
        honest, free = torch.zeros(len(y), 10), torch.zeros(2, *start.shape)
        for member, part in enumerate(free):
            part[member * rows : (member + 1) * rows] = start[member * rows : (member + 1) * rows]
        for at in range(3):
            head = fit(x, y, (fold != at)[None], start, 0.1, start[None], free)[0]
            honest[fold == at] = x[fold == at] @ head
        said, fitted = mo.predictions(whole, w).outputs.log_probabilities, whole(w.val.inputs)
    losses = [float(nn.functional.cross_entropy(z, y)) for z in (honest, said, fitted)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert losses[1] > 2 * losses[2], "what is fitted on val looks better there than it is"
    assert learned(whole).tried == ((0.1, pytest.approx(losses[1], rel=1e-3)),)
    assert mo.measure(whole, w).score.value == pytest.approx(float((honest.argmax(1) == y).float().mean()), abs=0.006)


class Asked:
    """A network as scikit-learn sees one, already fitted."""

    _estimator_type = "classifier"
    classes_ = np.arange(10)

    def __init__(self, said):
        self.said = said

    def __sklearn_tags__(self):
        return LogisticRegression().__sklearn_tags__()

    def fit(self, at, targets):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def get_params(self, deep=True):
        return {"said": self.said}

    def predict_proba(self, at):
        return self.said[at[:, 0]]


def test_not_significantly_worse_than_scikit_learns_stacking(w, pool):
    """The same members, already fitted, the same examples for the combiner; judged on test, paired."""
    whole = mo.Fuse(of="outputs").apply(pool, w)
    both = {s: stacked(pool, w, s).exp().double().numpy() for s in ("val", "test")}
    asked = np.concatenate([both["val"], both["test"]], axis=1)
    theirs = StackingClassifier(
        [(str(m), Asked(said)) for m, said in enumerate(asked)], LogisticRegression(), cv="prefit"
    )
    n = len(w.val)
    theirs.fit(np.arange(n)[:, None], w.val.targets.numpy())
    right = theirs.predict(np.arange(n, asked.shape[1])[:, None]) == w.test.targets.numpy()
    found = mcnemar(right.astype(float), mo.predictions(whole, w, "test").scores.numpy())
    assert found.lost <= found.won or found.p > 0.05


@pytest.mark.parametrize("of", LEARNED)
def test_a_head_is_in_file_size_time_and_graph(of, w, pool):
    whole = mo.Fuse(of=of, strengths=(0.1,)).apply(pool, w)
    found, inputs = mo.measure(whole, w), w.test.inputs
    reads = 2 * 10 if of == "outputs" else 32 + 32
    taken = 0 if of == "outputs" else 2 * (32 * 10 + 10)
    assert found.parameters == sum(p.numel() for m in pool for p in m.parameters()) - taken + reads * 10 + 10
    assert found.macs == sum(macs(m, w.example) for m in pool) + reads * 10 - (0 if of == "outputs" else 2 * 320)
    assert math.isfinite(found.latency_ms.value)
    assert found.latency_ms.value > 0
    data = mopt.encode(whole)
    assert len(data) == found.size_bytes
    with torch.no_grad():
        assert torch.equal(mopt.decode(data)(inputs), whole(inputs))
        session = onnxruntime.InferenceSession(onnx_bytes(whole, w.example))
        graph = torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])
        torch.testing.assert_close(graph, whole(inputs), atol=1e-4, rtol=1e-4)


def test_three_architectures_and_a_composite_member(w, pool):
    third = mo.Ensemble().apply(pool, w)
    whole = mo.Fuse(of="outputs", strengths=(0.1,)).apply([*pool, third], w)
    assert len(whole.members) == 3
    with pytest.raises(
        mo.ModelOptError, match=r"Fuse finds no last linear layer in model 3 \(Ensemble\); fuse outputs"
    ):
        mo.Fuse(of="features").apply([*pool, third], w)
    assert mo.measure(mo.Cascade().apply([pool[1], whole], w), w).macs < mo.measure(whole, w).macs + 4000
    alike = mo.Ensemble().apply([whole, pool[0]], w)
    assert mo.measure(alike, w).score.value > 0.9


def test_a_teacher_may_be_fused(w, pool):
    whole = mo.Fuse(of="outputs").apply(pool, w)
    student = mo.Distill(student="mlp", width=1.0, epochs=1, batch_size=512).apply(whole, w)
    assert mo.measure(student, w).parameters == mo.measure(pool[1], w).parameters


def test_notes_are_told_every_time(w):
    """Two networks that are one: nothing can be learned from the second."""
    twins = [mo.baseline("digits", "cnn")] * 2
    for _ in range(2):
        notes = []
        whole = mo.Fuse(select="greedy", align="none", recovery="none").apply(twins, w, report=notes.append)
        assert [note.text for note in notes] == ["2 of 2 models are in the soup"]
    assert whole is not twins[0]


def test_what_cannot_be_learned_from(w, pool):
    with pytest.raises(mo.ModelOptError, match="Fuse needs at least 2 models, the pool has 1"):
        mo.Fuse(of="outputs").apply(pool[:1], w)
    with pytest.raises(mo.ModelOptError, match="model 2 of Fuse does not take inputs"):
        mo.Fuse(of="features").apply([pool[0], mo.baseline("mnist", "lenet300")], w)
    fewer = build(Spec("mlp", (("sizes", (64, 8, 7)),), (1, 8, 8)))
    with pytest.raises(mo.ModelOptError, match="the models of Fuse answer with 10, 7 classes; choose models of one"):
        mo.Fuse(of="outputs").apply([pool[0], fewer], w)
    with pytest.raises(mo.ModelOptError, match="a strength of 0 is not allowed; strengths are numbers above 0"):
        mo.Fuse(of="outputs", strengths=(0,))
    with pytest.raises(mo.ModelOptError, match="folds=1 is not allowed; folds must be a whole number ≥ 2 and ≤ 20"):
        mo.Fuse(of="outputs", folds=1)
    with pytest.raises(mo.ModelOptError, match="of=answers is not allowed; of must be 'weights', 'outputs' or 'feat"):
        mo.Fuse(of="answers")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("stack", {"classes": 2**20}, "a head of 1048576 × 1048576 is not allowed"),
        ("stack", {"classes": 0}, "a head of 0 × 0 is not allowed"),
        ("features", {"classes": 10}, "features come from networks without their last layer"),
        ("trunk", {"layer": "relu1"}, "relu1 is no linear layer"),
        ("trunk", {"layer": "fc9"}, "does not take"),
        ("stack", {"layer": "fc1"}, "does not take"),
    ],
)
def test_a_hostile_composition_is_refused(kind, arguments, message):
    member = Spec("mlp", (("sizes", (64, 8, 10)),), (1, 8, 8))
    whole = Composition(kind, tuple(arguments.items()), (1, 8, 8), members=(member,))
    with pytest.raises(mo.ModelOptError, match=message):
        build(whole)


def test_of_many_features_a_head_reads_those_that_matter():
    """At right angles; the members' own weights lie within; few features all stay."""
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(100, 5, generator=draw), torch.randn(60, 5, generator=draw)]
    seen = torch.randn(300, 3, generator=draw) @ (10 * torch.randn(3, 160, generator=draw))
    found = _directions(seen, parts)
    assert found.shape == (160, 2 * 5 + VARIED)
    torch.testing.assert_close(found.t() @ found, torch.eye(74), atol=1e-4, rtol=0)
    for inside in (torch.block_diag(*parts), (seen - seen.mean(0)).t()):
        torch.testing.assert_close(found @ (found.t() @ inside), inside, atol=1e-2, rtol=1e-3)
    assert torch.equal(_directions(seen[:, :40], [part[:20] for part in parts]), torch.eye(40))
