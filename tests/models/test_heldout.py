"""What a head has learned from val by heart: taken back while it is as it was fitted, and called fitted after that."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.models import held_out_note, identity, notes

LEARNED = ["outputs", "features"]


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def pool():
    return [mo.baseline("digits", name) for name in ("cnn", "mlp")]


def test_what_was_learned_by_heart_is_taken_back_once():
    """Noted 0.2 at the first of two examples: val takes it back, test does not, other data does not."""
    w, model = mo.workload("digits"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    fitted = torch.zeros(len(w.val), 10)
    held_out = fitted.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(-5.0))
    held_out_note.note(model, w, fitted, held_out)
    torch.testing.assert_close(held_out_note.taken_back(model, fitted, w, "val"), held_out.log_softmax(1))
    assert torch.equal(held_out_note.taken_back(model, fitted, w, "test"), fitted)
    other = replace(w, data_hash="other")
    assert torch.equal(held_out_note.taken_back(model, fitted, other, "val"), fitted)
    copied = identity.clone(model)
    assert mo.predictions(copied, w).outputs.logits[0, 0] < mo.predictions(_plain(model), w).outputs.logits[0, 0]


def _plain(model):
    other = identity.clone(model)
    del other.__dict__[notes.NOTES]
    return identity.stamp(other, "plain")


def _how(model, w):
    return [mo.measure(model, w, split).score.how for split in ("val", "test")]


def test_a_file_holds_the_head_and_not_the_folds(w, pool):
    whole = mo.Fuse(of="outputs", strengths=(1e-4,)).apply(pool, w)
    loaded = mopt.decode(mopt.encode(whole))
    losses = [
        float(-mo.predictions(m, w).outputs.log_probabilities.gather(1, w.val.targets[:, None]).mean())
        for m in (whole, loaded)
    ]
    assert losses[1] < losses[0] / 2
    assert _how(whole, w) == ["measured", "measured"]
    assert _how(loaded, w) == ["fitted", "measured"]
    both = mo.Ensemble().apply([loaded, pool[0]], w)
    assert held_out_note.by_heart(both, w, "val")
    assert not held_out_note.by_heart(mo.Ensemble().apply([whole, pool[0]], w), w, "val")
    assert held_out_note.by_heart(whole, replace(w, data_hash="other"), "val"), "nobody knows whose val it was"


def _zeroed(whole, w):
    model = identity.clone(whole)
    with torch.no_grad():
        model.head.weight.zero_()
    return model


def _member_changed(whole, w):
    model = identity.clone(whole)
    with torch.no_grad():
        next(model.members.parameters()).mul_(1.5)
    return model


CHANGES = {
    "pruned": lambda whole, w: mo.Prune(ratio=0.98, recovery="none").apply(whole, w),
    "zeroed by hand": _zeroed,
    "a member changed": _member_changed,
    "trained": lambda whole, w: mo.Finetune(epochs=1).apply(mo.Prune(ratio=0.9, recovery="none").apply(whole, w), w),
    "8 bits": lambda whole, w: mo.Quantize(bits=8).apply(whole, w),
    "other activations": lambda whole, w: mo.Quantize(bits=8, activations=4).apply(whole, w),
}


@pytest.mark.parametrize("of", LEARNED)
@pytest.mark.parametrize("change", list(CHANGES))
def test_what_is_taken_back_is_of_the_weights_that_it_was_made_for(change, of, w, pool):
    """Once they changed, val says what the network itself answers, and that this is too good."""
    whole = mo.Fuse(of=of, strengths=(0.01,)).apply(pool, w)
    changed = CHANGES[change](whole, w)
    assert _how(changed, w)[0] == "fitted"
    own = mo.predictions(changed, w, runtime="eager")
    with torch.no_grad():
        torch.testing.assert_close(own.outputs.log_probabilities, changed(w.val.inputs), atol=1e-3, rtol=1e-3)
    assert mo.measure(changed, w, runtime="eager").score.value == pytest.approx(float(own.scores.mean()))
    assert held_out_note.by_heart(mo.Ensemble().apply([changed, pool[0]], w), w, "val")
    assert _how(whole, w) == ["measured", "measured"], "the model that was changed is a copy"


@pytest.mark.parametrize("of", LEARNED)
def test_where_nothing_changed_the_note_stays(of, w, pool):
    """A copy, a step that does nothing, and a file with its note beside it."""
    whole = mo.Fuse(of=of, strengths=(0.01,)).apply(pool, w)
    loaded = mopt.decode(mopt.encode(whole))
    notes.unpack(loaded, notes.pack(whole))
    said = mo.predictions(whole, w, runtime="eager").outputs.logits
    for same in (identity.clone(whole), copy.deepcopy(whole), mo.Prune(ratio=0.0).apply(whole, w), loaded):
        assert _how(same, w) == ["measured", "measured"]
        assert torch.equal(mo.predictions(same, w, runtime="eager").outputs.logits, said)
    other = mo.Quantize(bits=8).apply(loaded, w)
    notes.unpack(other, notes.pack(whole))
    assert _how(other, w)[0] == "fitted", "another model's note"
    del whole.__dict__[notes.NOTES][held_out_note.NOTE]["weights"]
    assert held_out_note.by_heart(whole, w, "val"), "a note that does not say whose it is"
