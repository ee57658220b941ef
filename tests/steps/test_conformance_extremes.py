"""The contract at its edges, over everything registered: impossible classes, many classes and members, no weight."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logit, rel_entr, softmax, xlogy
from scipy.stats import entropy, rankdata
from torch import Tensor

import modelopt_core as mo
from modelopt_core.models import identity
from modelopt_core.steps.distill import LossContext
from modelopt_core.steps.distill.losses import OTHERS
from modelopt_core.steps.fuse import MergeContext
from tests.steps.test_conformance import bits_of, generator

Array = np.ndarray
B, K = 6, 5


def masked(m: int, impossible: int = 2, seed: int = 0) -> Tensor:
    """Log-probabilities (m, B, K) of members that rule one class out, the first of them another one as well."""
    logits = 2 * torch.randn(m, B, K, generator=generator(seed))
    logits[:, :, impossible] = -torch.inf
    logits[0, ::2, 0] = -torch.inf
    return logits.log_softmax(-1)


def _normal(p: Array) -> Array:
    return p / p.sum(axis=-1, keepdims=True)


def _shares(points: Array, w: Array) -> Array:
    """Points (M, B, K) of each member -> the weighted share of every class (B, K)."""
    return np.tensordot(w, _normal(points), axes=1)


RULES: dict[str, Callable[[Array, Array], Array]] = {  # probabilities (M, B, K), weights (M,) -> (B, K)
    "mean": lambda p, w: np.tensordot(w, p, axes=1),
    "geometric": lambda p, w: _normal(np.exp(xlogy(w[:, None, None], p).sum(axis=0))),
    "product": lambda p, w: _normal(np.exp(np.count_nonzero(w) * xlogy(w[:, None, None], p).sum(axis=0))),
    "logit": lambda p, w: _normal(expit(sum(a * logit(b) for a, b in zip(w, p, strict=True) if a))),
    "vote": lambda p, w: _shares((p == p.max(axis=-1, keepdims=True)).astype(float), w),
    "borda": lambda p, w: _normal(np.tensordot(w, rankdata(p, "min", axis=-1) - 1, axes=1)),
}


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (0.0, 0.6, 0.4)])
@pytest.mark.parametrize("entry", list(mo.RULES.values()), ids=lambda e: e.name)
def test_rule_with_an_impossible_class(entry, weights):
    said, w = masked(3), torch.tensor(weights)
    found = entry(said, w)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(B), atol=1e-5, rtol=0)
    if entry.name in RULES:
        expected = RULES[entry.name](said.double().exp().numpy(), w.double().numpy())
        np.testing.assert_allclose(found.exp().numpy(), expected, atol=3e-4)  # votes hold a little of the mean


@pytest.mark.parametrize("entry", list(mo.RULES.values()), ids=lambda e: e.name)
def test_rule_where_every_class_is_ruled_out_by_somebody(entry):
    said = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).log()
    assert torch.isfinite(entry(said, torch.tensor([0.75, 0.25]))).all()
    assert entry(said, torch.tensor([0.75, 0.25])).argmax() == 0


@pytest.mark.parametrize("members", [2, 300])
@pytest.mark.parametrize("classes", [2, 10, 257, 1000])
@pytest.mark.parametrize("entry", list(mo.RULES.values()), ids=lambda e: e.name)
def test_members_that_are_one_network_answer_as_it_does(entry, classes, members):
    said = (2 * torch.randn(3, classes, generator=generator(classes))).log_softmax(-1)
    said[0] = said[0].sort().values  # whichever class it is: also the last
    found = entry(said.expand(members, -1, -1), torch.full((members,), 1 / members))
    assert found.argmax(-1).tolist() == said.argmax(-1).tolist()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("absent", [0, 1, 3])
@pytest.mark.parametrize("entry", list(mo.RULES.values()), ids=lambda e: e.name)
def test_rule_without_a_members_weight_is_the_rule_without_the_member(entry, absent):
    said = (2 * torch.randn(4, B, K, generator=generator())).log_softmax(-1)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    weights[absent] = 0
    weights /= weights.sum()
    others = torch.arange(4) != absent
    torch.testing.assert_close(entry(said, weights), entry(said[others], weights[others]))


CONFIDENCES: dict[str, Callable[[Array], Array]] = {
    "max_prob": lambda p: p.max(axis=1),
    "margin": lambda p: np.diff(np.sort(p, axis=1)[:, -2:], axis=1)[:, 0],
    "entropy": lambda p: 1 - entropy(p, axis=1) / np.log(p.shape[1]),
}


@pytest.mark.parametrize("entry", list(mo.CONFIDENCES.values()), ids=lambda e: e.name)
def test_confidence_with_an_impossible_class(entry):
    said = masked(2)[0]
    found = entry(said)
    assert ((found >= 0) & (found <= 1)).all()
    if entry.name in CONFIDENCES:
        np.testing.assert_allclose(found.numpy(), CONFIDENCES[entry.name](said.double().exp().numpy()), atol=1e-6)
    sure = torch.tensor([[1.0, 0, 0]]).log()
    assert entry(sure).tolist() == [1]


def _dkd(s: Array, t: Array, labels: Array, temperature: float) -> float:
    """Zhao et al., written out in probabilities."""
    total, rows = 0.0, np.arange(s.shape[1])
    for p, q, label in zip(softmax(t / temperature, 1), softmax(s / temperature, 1), labels, strict=True):
        rest = rows != int(label)
        total += rel_entr([p[label], p[rest].sum()], [q[label], q[rest].sum()]).sum()
        if p[rest].sum():
            total += OTHERS * rel_entr(_normal(p[rest]), _normal(q[rest])).sum()
    return temperature**2 * total / len(labels)


LOSSES: dict[str, Callable[[Array, Array, Array, float], float]] = {  # logits of student and teacher, labels, T
    "kl": lambda s, t, _, T: T**2 * rel_entr(softmax(t / T, 1), softmax(s / T, 1)).sum(axis=1).mean(),
    "dkd": _dkd,
    "mse_logits": lambda s, t, _, __: np.square(s[t > -np.inf] - t[t > -np.inf]).mean(),
}


def context(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> LossContext:
    features = torch.randn(2, len(student), 3, 4, generator=generator())
    labels = torch.tensor([0, 1, 3, 4, 0, 1])[: len(student)]
    return LossContext(student, teacher, labels, *features, temperature)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("entry", list(mo.LOSSES.values()), ids=lambda e: e.name)
def test_loss_with_a_class_that_both_rule_out(entry, temperature):
    student, teacher = masked(1, seed=1)[0].nan_to_num(neginf=-1), masked(1, seed=2)[0]
    student[:, 2] = teacher[:, 2] = -torch.inf
    teacher[:, 0] = student[:, 0]
    c = context(student.requires_grad_(True), teacher, temperature)
    loss = entry(c)
    assert torch.isfinite(loss)
    if entry.name in LOSSES:
        expected = LOSSES[entry.name](*(x.detach().double().numpy() for x in (student, teacher)), c.labels, temperature)
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert torch.isfinite(torch.autograd.grad(loss, student)[0]).all()


@pytest.mark.parametrize("name", ["kl", "dkd"])
def test_loss_where_one_alone_rules_a_class_out(name):
    """The student need not find possible what the teacher rules out; the other way round no penalty is enough."""
    free, ruled = 2 * torch.randn(B, K, generator=generator()), masked(1, seed=3)[0]
    ruled[1] = torch.tensor([0, -torch.inf, -torch.inf, -torch.inf, -torch.inf])
    ruled[4] = torch.tensor([0, -torch.inf, -torch.inf, -torch.inf, -torch.inf])  # nothing but the label
    c = context(free.requires_grad_(True), ruled)
    loss = mo.LOSSES[name](c)
    arrays = free.detach().double().numpy(), ruled.double().numpy()
    assert loss.item() == pytest.approx(LOSSES[name](*arrays, c.labels, 2.0), rel=1e-4)
    assert torch.isfinite(torch.autograd.grad(loss, free)[0]).all()
    assert mo.LOSSES[name](context(ruled, free.detach())).item() == torch.inf
    assert mo.LOSSES[name](context(ruled, ruled)).item() == 0


def test_log_softmax_is_scipys_for_what_is_drawn_here():
    drawn = 2 * torch.randn(1, B, K, generator=generator(0))
    np.testing.assert_allclose(drawn.log_softmax(-1).numpy(), log_softmax(drawn.numpy(), axis=-1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (4, 5)])
@pytest.mark.parametrize("entry", list(mo.MERGES.values()), ids=lambda e: e.name)
def test_merge_without_a_members_weight_is_the_merge_without_the_member(entry, shape):
    m = entry["arity"] or 4
    tensors, base = torch.randn((m, *shape), generator=generator()), torch.randn(shape, generator=generator(1))
    for absent in range(m):
        weights = torch.arange(1.0, m + 1)
        weights[absent] = 0
        weights /= weights.sum()
        others = torch.arange(m) != absent
        found = entry(MergeContext(tensors, weights, base if entry["needs_base"] else None, 0.7, 0.5))
        if m == 2:
            torch.testing.assert_close(found, tensors[others][0])
        else:
            left = MergeContext(tensors[others], weights[others], base if entry["needs_base"] else None, 0.7, 0.5)
            torch.testing.assert_close(found, entry(left))


@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("merge", list(mo.MERGES))
def test_fuse_without_a_members_weight_is_fuse_without_the_member(merge, absent):
    """Whoever it is, also one whose weights are no numbers, and where the units must be aligned first."""
    w, needs_base = mo.workload("digits"), mo.MERGES[merge]["needs_base"]
    base, *pool = (mo.baseline("digits", name) for name in ("cnn", "cnn-2", "cnn"))
    pool[1] = mo.Finetune(epochs=1).apply(pool[1], w, seed=3)
    gone = identity.clone(mo.baseline("digits", "cnn"))
    for parameter in gone.parameters():
        parameter.data.fill_(torch.nan)
    members = [*pool[:absent], gone, *pool[absent:]]
    first = [base] if needs_base else []
    weights = [1.0] * 3
    weights[absent] = 0
    found = mo.Fuse(merge=merge, weights=weights, density=0.5).apply([*first, *members], w)
    assert bits_of(found) == bits_of(mo.Fuse(merge=merge, density=0.5).apply([*first, *pool], w))


@pytest.mark.parametrize("rule", list(mo.RULES))
def test_ensemble_without_a_members_weight_is_the_ensemble_without_the_member(rule):
    w = mo.workload("digits")
    pool = [mo.baseline("digits", name) for name in ("cnn", "mlp", "cnn-2")]
    found, left = mo.Ensemble(rule=rule, weights=(2, 0, 1)), mo.Ensemble(rule=rule, weights=(2, 1))
    said = torch.stack([mo.predictions(model, w).outputs.log_probabilities for model in pool])
    whole = mo.predictions(found.apply(pool, w), w).outputs.logits
    assert torch.equal(whole, mo.predictions(left.apply([pool[0], pool[2]], w), w).outputs.logits)
    torch.testing.assert_close(mo.RULES[rule](said, torch.tensor([2 / 3, 0, 1 / 3])), whole)
