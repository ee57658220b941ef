"""The contract, over everything that makes one model of several: steps, rules, confidences, merges."""

import pytest
import torch

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.steps.fuse import MergeContext
from tests.steps.test_conformance import COMBINES, FUSES, bits_of, generator


@pytest.mark.parametrize("workload", ["digits", "docstrings"])
@pytest.mark.parametrize("step", COMBINES, ids=lambda s: s.label)
def test_combine(step, workload):
    """As of a Transform, for every model of the pool (R11); what the module answers is what arithmetic says."""
    w = mo.workload(workload)
    pool = [mo.baseline(workload, name) for name in w.models[:2]]
    before, keys = list(map(bits_of, pool)), list(map(identity.key, pool))
    result = step.apply(pool, w, seed=1)
    again = step.apply([mo.baseline(workload, name) for name in w.models[:2]], w, seed=1)
    assert list(map(bits_of, pool)) == before
    assert list(map(identity.key, pool)) == keys
    assert bits_of(result) == bits_of(again)
    assert not result.training
    assert not {t.data_ptr() for t in result.parameters()} & {t.data_ptr() for m in pool for t in m.parameters()}
    inputs = w.test.inputs[:5]
    with torch.no_grad():
        assert torch.isfinite(result(inputs)).all()
        assert result(inputs).shape == pool[0](inputs).shape
        said = mo.predictions(result, w, "test").outputs.logits[:5]
        torch.testing.assert_close(result(inputs), said, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("step", COMBINES, ids=lambda s: s.label)
def test_combine_stacks_both_ways(step):
    """Pruned and quantized members become one; what was made one is quantized, and pruned unless it skips."""
    w = mo.workload("digits")
    pool = [mo.baseline("digits", name) for name in ("mlp", "cnn")]
    small = [mo.Quantize(bits=8).apply(mo.Prune(ratio=0.2).apply(model, w), w) for model in pool]
    whole = step.apply(small, w)
    assert mo.measure(whole, w).size_bytes < mo.measure(step.apply(pool, w), w).size_bytes
    once = mo.Quantize(bits=4).apply(whole, w)
    assert mo.measure(once, w).size_bytes < mo.measure(whole, w).size_bytes
    if isinstance(step, mo.Cascade | mo.Pipeline):
        with pytest.raises(mo.ModelOptError, match=f"put Prune before {step.name}"):
            mo.Prune(ratio=0.3).apply(whole, w)
    else:
        assert mo.measure(mo.Prune(ratio=0.3).apply(whole, w), w).macs < mo.measure(whole, w).macs


@pytest.mark.parametrize("step", FUSES, ids=lambda s: s.label)
def test_fuse(step):
    """As of every Combine: inputs bit-identical, same seed, same result, eval mode and finite."""
    w = mo.workload("digits")
    cnn = mo.baseline("digits", "cnn")
    pool = [cnn, mo.Prune(ratio=0.2, granularity="weight").apply(cnn, w)]
    pool = [cnn, *pool] if mo.MERGES[step.merge]["needs_base"] else pool
    before, keys = list(map(bits_of, pool)), list(map(identity.key, pool))
    result = step.apply(pool, w, seed=1)
    STORE.clear()
    again = step.apply(pool, w, seed=1)
    assert list(map(bits_of, pool)) == before
    assert list(map(identity.key, pool)) == keys
    assert bits_of(result) == bits_of(again)
    assert not result.training
    with torch.no_grad():
        assert torch.isfinite(result(w.val.inputs[:5])).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 3), (3, 1, 4), (4, 5, 1), (5, 9, 10)])
@pytest.mark.parametrize("entry", list(mo.RULES.values()), ids=lambda e: e.name)
def test_rule(entry, shape):
    """(M, B, K) and (M,) -> normalised, finite (B, K), whatever the members say, and how sure."""
    draw = generator()
    drawn = (4 * torch.randn(shape, generator=draw)).log_softmax(-1)
    weights = torch.rand(shape[0], generator=draw)
    weights[0] = 0 if shape[0] > 1 else 1
    weights /= weights.sum()
    sure = torch.full(shape, -200.0)
    sure[..., 0] = 0
    for said in (drawn, torch.zeros(shape).log_softmax(-1), sure):
        result = entry(said, weights)
        assert result.shape == shape[1:]
        assert torch.isfinite(result).all()
        torch.testing.assert_close(result.exp().sum(-1), torch.ones(shape[1]), atol=1e-5, rtol=0)
    same = drawn[:1].expand(shape)
    assert torch.equal(entry(same, weights).argmax(-1), drawn[0].argmax(-1)), "identical members keep their answer"
    if entry["idempotent"]:
        torch.testing.assert_close(entry(same, weights), drawn[0], atol=1e-4, rtol=1e-4)
    if entry["pointwise"]:
        torch.testing.assert_close(entry(drawn[..., :1], weights), entry(drawn, weights)[..., :1])
    if shape[0] > 1:
        torch.testing.assert_close(entry(drawn.flip(0), weights.flip(0)), entry(drawn, weights), atol=1e-5, rtol=1e-5)
    if entry["convex"]:
        other = torch.full_like(weights, 1 / shape[0])
        middle = entry(drawn, (weights + other) / 2)
        assert (middle >= (entry(drawn, weights) + entry(drawn, other)) / 2 - 1e-5).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 2), (5, 10)])
@pytest.mark.parametrize("entry", list(mo.CONFIDENCES.values()), ids=lambda e: e.name)
def test_confidence(entry, shape):
    """(B, K) -> (B,) in [0, 1]; a certain answer is 1, nothing is less sure than a uniform one."""
    drawn = (4 * torch.randn(shape, generator=generator())).log_softmax(-1)
    uniform, sure = torch.zeros(shape).log_softmax(-1), torch.full(shape, -200.0)
    sure[..., 0] = 0
    found = entry(drawn)
    assert found.shape == shape[:1]
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(entry(sure), torch.ones(shape[0]))
    if shape[1] > 1:
        assert (entry(uniform) <= found + 1e-6).all()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 1), (4, 5), (2, 3, 3, 3)])
@pytest.mark.parametrize("entry", list(mo.MERGES.values()), ids=lambda e: e.name)
def test_merge(entry, shape):
    """(M, *s) and (M,) -> finite (*s), also of zeros and for one member; identical members come back where declared."""
    for m in [entry["arity"]] if entry["arity"] else [1, 2, 4]:
        drawn = torch.randn((m, *shape), generator=generator(m))
        weights = torch.full((m,), 1 / m)
        base = torch.randn(shape, generator=generator()) if entry["needs_base"] else None
        for tensors in (drawn, torch.zeros(m, *shape)):
            merged = entry(MergeContext(tensors, weights, base))
            assert merged.shape == shape
            assert torch.isfinite(merged).all()
        if entry["idempotent"]:
            torch.testing.assert_close(entry(MergeContext(drawn[:1].expand(drawn.shape), weights, base)), drawn[0])
        if base is not None:
            unchanged = base.expand(m, *shape)
            torch.testing.assert_close(entry(MergeContext(unchanged, weights, base)), base)
