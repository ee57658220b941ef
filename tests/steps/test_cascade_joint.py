"""Exits trained with their network: the loss by hand, what it does to the exits, seeds, resumption, variants."""

import math

import pytest
import torch

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.machine.events import Progress
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import identity, weight_grid
from modelopt_core.steps.cascade.exits import Exits, branched
from modelopt_core.steps.cascade.joint import EveryExit, drawn, joint_loss, trained

JOINT = {"stages": "exits", "epochs": 2, "hidden": 16}


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def cnn():
    return mo.baseline("digits", "cnn")


@pytest.fixture(scope="module")
def whole(w, cnn):
    return mo.Cascade(**JOINT).apply([cnn], w)


def test_the_loss_by_hand():
    """Two exits, one example: labels (ln 2 + ln 4), and the early one beside the last: ¾ ln 2 + ¼ ln 2."""
    said = torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]]]).log().requires_grad_()
    loss = joint_loss(said, torch.tensor([math.log(2), math.log(4)]))
    assert loss.item() == pytest.approx(math.log(2) + math.log(4) + math.log(2))
    loss.backward()
    assert torch.equal(said.grad[1], torch.zeros(1, 2)), "the teacher is not drawn to its pupil"
    torch.testing.assert_close(said.grad[0], -torch.tensor([[0.75, 0.25]]))


def test_every_exit_counts(w, cnn):
    """Scores and losses of a workload as a training of exits sees it are means over what each exit says."""
    made = drawn(branched(cnn, w, ()), seed=0)
    every = EveryExit(**{f: getattr(w, f) for f in mo.Workload.__dataclass_fields__}, own=w)
    x, y = w.val.inputs[:20], w.val.targets[:20]
    with torch.no_grad():
        outputs = every.forward(made, x)
        alone = [w.forward(way, x) for way in made.parts]
    assert outputs.logits.shape == (20, 30)
    torch.testing.assert_close(every.example_scores(outputs, y), sum(w.example_scores(one, y) for one in alone) / 3)
    torch.testing.assert_close(every.loss(outputs, y), sum(w.loss(one, y) for one in alone) / 3)
    assert torch.equal(every.decode(outputs), w.decode(alone[-1]))


def test_early_exits_become_better_than_fitted_ones(w, cnn, whole):
    """On train, which both learn from: the first of trained exits loses less than the best linear head there is."""
    key = identity.key(cnn)
    fitted = mo.Cascade(stages="exits").apply([cnn], w)
    more = mo.Cascade(**{**JOINT, "epochs": 5}).apply([cnn], w)
    losses = [w.loss(w.forward(one.parts[0], w.train.inputs), w.train.targets).item() for one in (whole, more)]
    assert losses[1] < losses[0]
    assert not torch.equal(more.members[1].body.conv2.weight, cnn.conv2.weight), "the network is trained too"
    assert torch.equal(fitted.members[1].body.conv2.weight, cnn.conv2.weight)
    assert identity.key(cnn) == key


def test_a_threshold_trains_nothing_again(w, cnn, whole, monkeypatch):
    """The training is one step, whatever threshold and confidence are; its result serves all of them."""
    step = mo.Cascade(**JOINT, threshold=0.6, confidence="entropy", calibrate=True)
    assert step.lasts(w)
    assert step.lasting == mo.Cascade(**JOINT)
    assert step.lasting.lasting == step.lasting
    assert not mo.Cascade(stages="exits").lasts(w)
    assert mo.Cascade(threshold=0.3, epochs=3).lasting == mo.Cascade(threshold=0.3, epochs=3), "of models: no training"
    monkeypatch.setattr("modelopt_core.steps.cascade.cascade.trained", None)
    other = step.apply([cnn], w)
    assert isinstance(other, Exits)
    assert other.confidence == "entropy"
    assert torch.equal(other.members[0].head[0].weight, whole.members[0].head[0].weight)
    torch.testing.assert_close(mopt.decode(mopt.encode(other))(w.example), other(w.example))
    said = stacked(other.parts, w)
    assert (said.argmax(2) == stacked(whole.parts, w).argmax(2)).all()


class Notebook:
    """A report that keeps the last checkpoint, and dies after one epoch when told to."""

    def __init__(self, dies=False):
        self.saved, self.dies = {}, dies

    def __call__(self, event):
        if isinstance(event, Progress) and event.checkpoint:
            self.saved[event.training] = event.checkpoint()
            if self.dies:
                raise KeyboardInterrupt

    def recall(self, training):
        return self.saved.get(training)


def test_the_same_seed_and_a_resumed_training_give_the_same_weights(w, cnn):
    def run(seed, report):
        made = drawn(branched(cnn, w, ("conv1",), hidden=8), seed)
        return trained(made, w, epochs=2, lr=1e-3, seed=seed, report=report).state_dict()

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in one)

    book = Notebook(dies=True)
    with pytest.raises(KeyboardInterrupt):
        run(0, book)
    book.dies = False
    first = run(0, lambda _: None)
    assert same(first, run(0, book))
    assert not same(first, run(1, lambda _: None))


def test_heads_can_learn_alone(w, cnn):
    """The network stays bit for bit, norms and grid too; an epoch's best comes with its network; it can be resumed."""
    four, bests = mo.Quantize(bits=4).apply(cnn, w), []

    def heard(event):
        if isinstance(event, Progress) and event.best:
            bests.append(event.best())

    step = mo.Cascade(**JOINT, frozen=True, lr=0.01)
    whole = step.apply([four], w, report=heard)
    other = step.apply([four], w, seed=1)
    with torch.no_grad():
        x = w.val.inputs
        torch.testing.assert_close(whole.parts[-1](x), four(x).log_softmax(1), atol=1e-4, rtol=1e-4)
        assert isinstance(bests[-1], Exits)
        assert torch.equal(bests[-1].every(x), whole.every(x))
        said, labels = whole.every(w.train.inputs), w.train.targets
    assert weight_grid.codes(whole.members[1].body.conv2) is not None
    assert torch.nn.functional.nll_loss(said[0], labels) < 2, "log 10 = 2.3 for heads that learned nothing"
    assert not torch.equal(other.members[0].head[0].weight, whole.members[0].head[0].weight)


def test_every_field_of_a_training_makes_other_ways(w, cnn, whole):
    """What a way said is kept under its key: two trainings must not share one."""
    once = mo.Cascade(**{**JOINT, "epochs": 1})
    others = [once, once.changed(frozen=True), once.changed(lr=0.01), once.changed(hidden=8)]
    keys = [identity.key(step.apply([cnn], w).parts[0]) for step in others]
    assert len({*keys, identity.key(whole.parts[0])}) == len(others) + 1
    assert identity.key(once.changed(threshold=0.5).apply([cnn], w).parts[0]) == keys[0]


def test_variants_stay_what_they_are(w, cnn):
    """What was pruned stays zero, what was quantized stays on its grid."""
    pruned = mo.Prune(ratio=0.5, granularity="weight").apply(cnn, w)
    once = mo.Cascade(**{**JOINT, "epochs": 1}, exits=("conv1",))
    trained_on = once.apply([pruned], w).members[1].body.conv2.weight
    assert torch.equal(trained_on == 0, pruned.conv2.weight == 0)
    assert not torch.equal(trained_on, pruned.conv2.weight)
    four = once.apply([mo.Quantize(bits=4).apply(cnn, w)], w)
    assert weight_grid.codes(four.members[1].body.conv2) is not None
    assert len(mopt.encode(four)) < len(mopt.encode(once.apply([cnn], w))) / 2


@pytest.mark.parametrize("more", [{"epochs": -1}, {"hidden": -1}, {"lr": 0}], ids=str)
def test_what_no_training_can_be(more):
    with pytest.raises(mo.ModelOptError, match=f"Cascade: {next(iter(more))}=.* is not allowed"):
        mo.Cascade(**{**JOINT, **more})
