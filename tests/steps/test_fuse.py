"""Fusion: merges by hand, alignment of what was shuffled, the hill between two networks, and what cannot be merged."""

import math

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.models import identity
from modelopt_core.models.spec import Spec
from modelopt_core.steps.fuse import MergeContext, align, barrier, path
from modelopt_core.steps.fuse.align import _permute
from modelopt_core.steps.fuse.path import Spot
from modelopt_core.structure.build import build
from modelopt_core.training.loop import evaluate

BAG = Spec("bag", (("hidden", 12), ("vocabulary", 40), ("width", 9)), (8,), "int64")
CNN, MLP = Spec("cnn", (), (1, 8, 8)), Spec("mlp", (("sizes", (64, 24, 16, 10)),), (1, 8, 8))


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def apart():
    """Two networks that were trained apart, from seeds of their own."""
    return [mo.baseline("digits", name) for name in ("cnn", "cnn-2")]


def context(*rows, weights=(0.75, 0.25), base=None, **more):
    return MergeContext(torch.tensor(rows), torch.tensor(weights), None if base is None else torch.tensor(base), **more)


def test_average_by_hand():
    assert mo.MERGES["average"](context([4.0, 0.0], [0.0, 8.0])).tolist() == [3, 2]


def test_slerp_by_hand():
    """A quarter of the way along a right angle; the length stays where an average would shrink it."""
    angle = math.pi / 8
    found = mo.MERGES["slerp"](context([1.0, 0.0], [0.0, 1.0]))
    assert found.tolist() == pytest.approx([math.cos(angle), math.sin(angle)])
    assert mo.MERGES["slerp"](context([1.0, 0.0], [-1.0, 0.0])).tolist() == [0.5, 0]  # no one arc: straight
    assert mo.MERGES["slerp"](context([0.0, 0.0], [0.0, 4.0])).tolist() == [0, 1]


def test_task_arithmetic_by_hand():
    """Changes 1, 0 and 0, 2 of the base 1, 1; both in full, then half of each."""
    given = {"weights": (0.5, 0.5), "base": [1.0, 1.0]}
    assert mo.MERGES["task_arithmetic"](context([2.0, 1.0], [1.0, 3.0], **given)).tolist() == [2, 3]
    assert mo.MERGES["task_arithmetic"](context([2.0, 1.0], [1.0, 3.0], scale=0.5, **given)).tolist() == [1.5, 2]


def test_ties_by_hand():
    """Half of four changes stay: 5, −4 and 3, 2; the signs of the second column disagree, −4 outweighs 2."""
    given = {"weights": (0.5, 0.5), "base": [0.0] * 4, "density": 0.5}
    found = mo.MERGES["ties"](context([5.0, -4.0, 1.0, 0.5], [3.0, 2.0, -0.5, 0.1], **given))
    assert found.tolist() == [4, -4, 0, 0]


def test_what_was_shuffled_is_put_back(w):
    """A permuted copy computes the same, and aligning finds the permutation, over batch norms and a flattening too."""
    for spec, x in ((CNN, w.val.inputs[:9]), (MLP, w.val.inputs[:9]), (BAG, torch.arange(40).reshape(5, 8))):
        model = build(spec)
        shuffled = identity.clone(model)
        with torch.no_grad():
            for group in mo.channels.groups(model, x[:1]):
                if not group.frozen:
                    order = torch.randperm(group.size, generator=torch.Generator().manual_seed(group.size))
                    _permute(shuffled, group, order)
            torch.testing.assert_close(shuffled(x), model(x), atol=1e-5, rtol=1e-4)
        assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), shuffled.parameters(), strict=True))
        found = align(shuffled, model, x[:1])
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), found.parameters(), strict=True))


def test_alignment_climbs_out_of_the_valley(w, apart):
    """Two shipped seeds: the straight path falls deep; aligned, norms re-estimated, it loses a fraction of that."""
    moved = align(apart[1], apart[0], w.example)
    plain, climbed = (list(path(apart[0], other, w, points=5)) for other in (apart[1], moved))
    assert barrier(plain) > 0.5
    assert barrier(climbed) < barrier(plain) / 5
    assert climbed[2].score > plain[2].score + 0.1
    middle = mo.Fuse(align="permute").apply(apart, w)
    assert evaluate(middle, w, w.val)[0] == pytest.approx(climbed[2].score, abs=1e-6)


def test_aligning_changes_no_answer(w, apart):
    moved = align(apart[1], apart[0], w.example)
    with torch.no_grad():
        torch.testing.assert_close(moved(w.val.inputs), apart[1](w.val.inputs), atol=1e-4, rtol=1e-4)
    near, far = (
        sum(float((a - b).detach().square().sum()) for a, b in zip(apart[0].parameters(), m.parameters(), strict=True))
        for m in (moved, apart[1])
    )
    assert near < far


def test_barrier_by_hand():
    spots = [Spot(0.0, 1.0, 0.2), Spot(0.5, 0.4, 1.0), Spot(1.0, 0.9, 0.4)]
    assert barrier(spots) == pytest.approx(1.0 - 0.3)
    assert barrier(spots[::2]) == 0


def test_the_path_begins_and_ends_at_the_networks(w, apart):
    """Aligned or not, the ends are the same two networks; a network is at one with itself all the way."""
    moved = align(apart[1], apart[0], w.example)
    straight, climbed = list(path(*apart, w, points=3, norms=False)), list(path(apart[0], moved, w, points=3))
    assert [s.t for s in straight] == [0, 0.5, 1]
    assert straight[2].score == pytest.approx(climbed[2].score)
    for spots in (straight, climbed):
        for spot, model in ((spots[0], apart[0]), (spots[2], apart[1])):
            assert spot.score == pytest.approx(evaluate(model, w, w.val)[0])
    level = list(path(apart[0], identity.clone(apart[0]), w, points=4, norms=False))
    assert barrier(level) == pytest.approx(0, abs=1e-6)
    assert len({round(spot.score, 6) for spot in level}) == 1


def test_a_fused_network_is_as_large_as_one(w, apart):
    before = [identity.key(model) for model in apart]
    whole = mo.Fuse().apply(apart, w)
    assert [identity.key(model) for model in apart] == before
    assert mo.measure(whole, w).parameters == mo.measure(apart[0], w).parameters
    assert torch.equal(mopt.decode(mopt.encode(whole))(w.example), whole(w.example))
    stages = mo.run((mo.Fuse(), mo.Prune(ratio=0.2)), apart, w)
    assert [s.label.split("(")[0] for s in stages] == ["baseline", "baseline", "Fuse", "Prune"]


@pytest.mark.parametrize("merge", list(mo.MERGES))
def test_one_network_with_itself(merge, w):
    """Identical members come back under every merge that declares so; the others go from the base by no change."""
    model = mo.baseline("digits", "cnn")
    entry = mo.MERGES[merge]
    whole = mo.Fuse(merge=merge, recovery="none").apply([model] * (3 if entry["needs_base"] else 2), w)
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_quantized_member_leaves_its_grid(w):
    model = mo.baseline("digits", "cnn")
    whole = mo.Fuse(align="none").apply([mo.Quantize(bits=4).apply(model, w), model], w)
    assert not any(hasattr(m, "weight_levels") for m in whole.modules())


def test_a_greedy_soup_is_no_worse_on_val_than_its_best_member(w, apart):
    notes = []
    whole = mo.Fuse(select="greedy").apply(apart, w, report=notes.append)
    best = max(float(mo.predictions(m, w, runtime="eager").scores.mean()) for m in apart)
    assert float(mo.predictions(whole, w, runtime="eager").scores.mean()) >= best - 1e-6
    assert "of 2 models are in the soup" in notes[-1].text


def test_what_cannot_be_merged(w):
    cnn, mlp = mo.baseline("digits", "cnn"), mo.baseline("digits", "mlp")
    with pytest.raises(
        mo.ModelOptError, match=r"weights of one architecture: conv1.weight is \(16, 1, 3, 3\) in model 1 and absent in"
    ):
        mo.Fuse().apply([cnn, mlp], w)
    thin = mo.Prune(ratio=0.5).apply(cnn, w)
    with pytest.raises(
        mo.ModelOptError, match=r"conv1.weight is \(16, 1, 3, 3\) in model 1 and \(8, 1, 3, 3\) in model 3; fuse o"
    ):
        mo.Fuse().apply([cnn, cnn, thin], w)
    with pytest.raises(mo.ModelOptError, match="Fuse needs at least 2 models, the pool has 1"):
        mo.Fuse().apply([cnn], w)
    with pytest.raises(mo.ModelOptError, match="slerp merges 2 models, not 3; choose average, or leave out the others"):
        mo.Fuse(merge="slerp").apply([cnn] * 3, w)
    with pytest.raises(mo.ModelOptError, match="Fuse has 3 weights for 2 models; give every merged model one"):
        mo.Fuse(weights=(1, 1, 1)).apply([cnn] * 2, w)
    with pytest.raises(mo.ModelOptError, match="all weights are zero, nothing would be left"):
        mo.Fuse(weights=(0, 0))
    with pytest.raises(mo.ModelOptError, match="a weight of -1 is not allowed"):
        mo.Fuse(weights=(-1, 2))
    with pytest.raises(mo.ModelOptError, match="unknown merge 'mean'"):
        mo.Fuse(merge="mean")


def test_a_network_without_hidden_units(w):
    """All of the weight on one of two gives that one back, in a copy."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    alone = mo.Fuse(weights=(0, 1)).apply([identity.clone(flat), flat], w)
    assert alone is not flat
    assert torch.equal(alone[1].weight, flat[1].weight)
    whole = mo.Fuse().apply([flat, identity.clone(flat)], w)
    torch.testing.assert_close(whole[1].weight, flat[1].weight)


def test_a_change_that_is_given_all_the_weight_is_added_once(w):
    """[base, A, B] with weights 1, 0 is A, to the answer."""
    base = mo.baseline("digits", "cnn-2")
    changed, other = (mo.Finetune(epochs=1, lr=0.01).apply(base, w, seed=seed) for seed in (1, 2))
    step = mo.Fuse(merge="task_arithmetic", weights=(1, 0), align="none", recovery="none")
    whole = step.apply([base, changed, other], w)
    for (name, a), b in zip(whole.state_dict().items(), changed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert mo.measure(whole, w).score.value == pytest.approx(mo.measure(changed, w).score.value, abs=0.003)


def test_what_has_no_weight_is_no_model_too_many(w):
    """An arc goes between two; of three networks one has no weight, and the other two are the same."""
    cnn, other = (mo.baseline("digits", name) for name in ("cnn", "cnn-2"))
    step = mo.Fuse(merge="slerp", weights=(1, 0, 1), recovery="none")
    found = step.apply([cnn, other, cnn], w)
    for a, b in zip(found.parameters(), cnn.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert step.shares([cnn, other, cnn], w) == (1, 0, 1)
