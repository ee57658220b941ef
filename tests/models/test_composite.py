"""Composites: what a combined module answers, is measured at, is saved as, and whom a damaged file can ask for."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.models.composite import compose
from modelopt_core.models.spec import Composition, Spec, spec_of
from modelopt_core.structure.build import MAX_MEMBERS, build


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def pool():
    return [mo.baseline("digits", "cnn"), mo.baseline("digits", "mlp")]


def answers(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs)


def test_an_ensemble_by_hand(w, pool):
    """The module says what its members' averaged probabilities say."""
    whole = mo.Ensemble(weights=(3, 1)).apply(pool, w)
    x = w.val.inputs[:9]
    expected = 0.75 * answers(pool[0], x).softmax(1) + 0.25 * answers(pool[1], x).softmax(1)
    torch.testing.assert_close(answers(whole, x).exp(), expected)
    assert torch.equal(whole.get_buffer("weights"), torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize("rule", list(mo.RULES))
def test_module_arithmetic_and_one_onnx_graph_agree(rule, w, pool, tmp_path):
    whole = mo.Ensemble(rule=rule, weights=(0.7, 0.3)).apply(pool, w)
    arithmetic = mo.predictions(whole, w).outputs.logits
    with torch.no_grad():
        torch.testing.assert_close(whole(w.val.inputs), arithmetic, atol=2e-4, rtol=1e-4)
    session = onnxruntime.InferenceSession(mo.export_onnx(whole, w, tmp_path / "e.onnx"))
    for inputs in (w.val.inputs, w.val.inputs[:1]):
        ran = session.run(None, {"inputs": inputs.numpy()})[0]
        np.testing.assert_allclose(ran, arithmetic[: len(inputs)].numpy(), atol=2e-4, rtol=1e-4)


def test_a_member_without_weight_costs_nothing(w, pool):
    alone = mo.Ensemble(weights=(1, 0)).apply(pool, w)
    assert mo.measure(alone, w).macs == mo.measure(pool[0], w).macs
    torch.testing.assert_close(answers(alone, w.val.inputs[:4]), answers(pool[0], w.val.inputs[:4]).log_softmax(1))


def test_results_are_kept_and_made_again_if_written_to(w, pool):
    step = mo.Ensemble(weights=(0.6, 0.4))
    first = step.apply(pool, w)
    assert step.apply(pool, w) is first
    with torch.no_grad():
        first.get_buffer("weights").fill_(0.5)
    again = step.apply(pool, w)
    assert again is not first
    assert again.get_buffer("weights").tolist() == pytest.approx([0.6, 0.4])


def test_predictions_of_members_are_used_again(w, pool, monkeypatch):
    """A moved weight runs no network."""
    for model in pool:
        mo.predictions(model, w)
    monkeypatch.setattr(
        sys.modules["modelopt_core.measuring.measurement"], "predict", lambda *_, **__: pytest.fail("a network ran")
    )
    assert len(mo.predictions(mo.Ensemble(weights=(0.55, 0.45)).apply(pool, w), w).scores) == len(w.val)


def test_measured_as_one(w, pool):
    """Parameters, MACs and bytes are the members' together; the file holds them all and comes back."""
    whole = mo.Ensemble().apply(pool, w)
    one, parts = mo.measure(whole, w), [mo.measure(model, w) for model in pool]
    assert one.parameters == sum(p.parameters for p in parts)
    assert one.macs == sum(p.macs for p in parts)
    assert abs(one.size_bytes - sum(p.size_bytes for p in parts)) < 200
    assert one.size_bytes == len(mopt.encode(whole))


def test_the_file_stores_the_children(w, pool, tmp_path):
    """Pruned and quantized members, each in its own way, and the rule around them."""
    members = [mo.Prune(ratio=0.4).apply(pool[0], w), mo.Quantize(bits=4).apply(pool[1], w)]
    whole = mo.Ensemble(rule="borda", weights=(0.2, 0.8)).apply(members, w)
    back = mo.load(mo.save(whole, tmp_path / "whole.mopt"))
    assert spec_of(back) == spec_of(whole)
    assert isinstance(spec_of(back), Composition)
    assert torch.equal(answers(back, w.val.inputs[:20]), answers(whole, w.val.inputs[:20]))
    assert any(hasattr(m, "weight_levels") for m in back.modules())


def test_an_ensemble_of_ensembles_saves_and_runs(w, pool, tmp_path):
    inner = mo.Ensemble(rule="vote").apply(pool, w)
    whole = mo.Ensemble().apply([inner, pool[1]], w)
    back = mo.load(mo.save(whole, tmp_path / "nested.mopt"))
    assert torch.equal(answers(back, w.val.inputs[:5]), answers(whole, w.val.inputs[:5]))
    assert len(mo.predictions(whole, w).scores) == len(w.val)


def test_a_pruned_ensemble_saves(w, pool, tmp_path):
    """The cut is in the whole's own spec; the output channels of every member stay."""
    thin = mo.Prune(ratio=0.5).apply(mo.Ensemble().apply(pool, w), w)
    back = mo.load(mo.save(thin, tmp_path / "thin.mopt"))
    assert torch.equal(answers(back, w.val.inputs[:5]), answers(thin, w.val.inputs[:5]))
    assert mo.measure(thin, w).macs < mo.measure(mo.Ensemble().apply(pool, w), w).macs


def test_a_member_without_a_spec_has_no_file_but_a_size(w, pool):
    own = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    whole = mo.Ensemble().apply([own, pool[1]], w)
    assert spec_of(whole) is None
    assert mo.measure(whole, w).size_label == ".safetensors file (own class)"
    with pytest.raises(mo.ModelOptError, match="cannot say how to build"):
        mopt.encode(whole)


def test_identity_knows_the_rule(pool):
    """Two composites of the same members under two rules are two models, with a spec and without."""
    own = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    for members in (pool, own):
        assert len({identity.key(compose("ensemble", members, rule=rule)) for rule in mo.RULES}) == len(mo.RULES)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Composition("ensemble", (), (4,), members=(Spec("mlp", (("sizes", (4, 2)),), (4,)),)), "does not take {}"),
        (Composition("ensembl", (), (4,), members=(Spec("mlp", (("sizes", (4, 2)),), (4,)),)), "unknown composite"),
        (Composition("ensemble", (("rule", "m"),), (4,), members=(Spec("cnn", (), (4,)),)), "unknown rule 'm'"),
        (Composition("ensemble", (("rule", "mean"),), (4,)), "a composite of 0 models; allowed are 1 to 64"),
        (
            Composition("ensemble", (("rule", "mean"),), (4,), members=(Spec("cnn", (), (1, 8, 8)),) * 65),
            f"a composite of 65 models; allowed are 1 to {MAX_MEMBERS}",
        ),
    ],
)
def test_what_a_file_may_ask_for(spec, text):
    with pytest.raises(mo.ModelOptError, match=text):
        build(spec)


def test_members_share_one_limit():
    member = Spec("mlp", (("sizes", (10, 10)),), (10,))  # 110 parameters
    spec = Composition("ensemble", (("rule", "mean"),), (10,), members=(member,) * 3)
    assert sum(p.numel() for p in build(spec, max_parameters=330).parameters()) == 330
    with pytest.raises(mo.ModelOptError, match="110 parameters, allowed are 109"):
        build(spec, max_parameters=329)


def test_steps_stack_on_it(w, pool):
    """Compressed members into an ensemble; an ensemble compressed; with integer kernels in the one graph."""
    STORE.clear()
    stages = mo.run((mo.Prune(ratio=0.3), mo.Ensemble(), mo.Quantize(bits=8)), pool, w)
    assert [s.branch for s in stages] == [0, 1, 0, 1, 0, 0]
    assert "int8" in stages[-1].measurement.runtime
    assert stages[-1].measurement.size_bytes < stages[-2].measurement.size_bytes / 3
    text = mo.to_json((mo.Prune(ratio=0.3), mo.Ensemble(weights=(1, 2))))
    assert mo.from_json(text) == (mo.Prune(ratio=0.3), mo.Ensemble(weights=(1, 2)))
