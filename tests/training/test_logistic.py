"""Linear heads: a case by hand, scikit-learn's solution, folds that do not leak, sizes down to one."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import modelopt_core as mo
from modelopt_core.training.logistic import LOOSE, STRENGTHS, cross_fitted, fit, folded


def drawn(n: int, p: int, k: int, seed: int = 0, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, p) and the classes (n,) that a linear rule gives them, with noise; every class is there."""
    draw = torch.Generator().manual_seed(seed)
    x, rule = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((n, p), (p, k)))
    y = (x @ rule + noise * torch.randn(n, k, generator=draw, dtype=torch.float64)).argmax(1)
    return x, torch.cat([torch.arange(k), y[k:]]) if n >= k else y


def one(x, y, k, strength, start=None):
    """A head (P, K) on all examples."""
    start = x.new_zeros(x.shape[1], k) if start is None else start
    return fit(x, y, torch.ones(1, len(x), dtype=torch.bool), start, strength, start[None])[0]


def test_by_hand():
    """One feature, always 1, two classes, three of four are the second: at the optimum p − ¾ + strength · w = 0."""
    x, y = torch.ones(4, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 1])
    head = one(x, y, 2, strength=0.1)
    p = float(head.softmax(1)[0, 1])
    assert float(head[0, 1]) == pytest.approx((0.75 - p) / 0.1, abs=1e-5)
    assert float(head.sum()) == pytest.approx(0, abs=1e-5)
    assert one(x, y, 2, 1e-9).softmax(1)[0, 1] == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize(("n", "p", "k"), [(200, 3, 3), (150, 12, 5), (60, 1, 3), (90, 40, 4)])
@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_the_same_as_scikit_learn(n, p, k, strength):
    """The same problem there: no bias of its own, C = 1 / (n · strength)."""
    x, y = drawn(n, p, k)
    ours = one(x, y, k, strength)
    theirs = LogisticRegression(C=1 / (n * strength), fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(ours.numpy(), theirs.coef_.T, atol=2e-4)


def test_a_strong_pull_leaves_what_it_pulls_to():
    x, y = drawn(80, 4, 3)
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(one(x, y, 3, 1e8, start), start, atol=1e-6, rtol=0)
    far, near = one(x, y, 3, 0.01, start) - start, one(x, y, 3, 1.0, start) - start
    assert far.norm() > near.norm()


def test_a_free_direction_is_hardly_pulled():
    """The slope of the whole loss is zero where the heads end: along the direction the pull is a thousandth."""
    x, y = drawn(80, 4, 3)
    start, way = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = fit(x, y, torch.ones(1, 80, dtype=torch.bool), start, 50.0, start[None], way[None])[0].requires_grad_()
    unit = way / way.norm()
    along = ((found - start) * unit).sum()
    across = found - start - along * unit
    pull = 25.0 * (across.square().sum() + LOOSE * along.square())
    (torch.nn.functional.cross_entropy(x @ found, y) + pull).backward()
    assert float(found.grad.abs().max()) < 1e-4
    assert float(along.detach().abs()) > 5 * float(across.detach().norm())


def test_folds_do_not_see_what_they_are_asked_about():
    """Each held-out answer is that of a head fitted by itself to the other folds' examples."""
    x, y = drawn(120, 5, 3)
    start = x.new_zeros(6, 3)
    found = cross_fitted(x, y, start, 4, torch.Generator().manual_seed(3), (0.05,))
    fold = torch.randperm(120, generator=torch.Generator().manual_seed(3)) % 4
    wide = torch.cat([x, x.new_ones(120, 1)], 1)
    for at in range(4):
        head = one(wide[fold != at], y[fold != at], 3, 0.05)
        torch.testing.assert_close(found.held_out[fold == at], wide[fold == at] @ head, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found.head, one(wide, y, 3, 0.05), atol=2e-3, rtol=1e-3)
    assert found.tried == ((0.05, pytest.approx(float(torch.nn.functional.cross_entropy(found.held_out, y)))),)


def test_no_fold_tears_a_cluster_apart():
    """By hand: six examples of three sources make three folds, one a source. Without sources it is a plain draw."""
    sources = torch.tensor([7, 7, 4, 7, 9, 4])
    fold = folded(6, 3, torch.Generator().manual_seed(0), sources)
    assert sorted(fold[[0, 2, 4]].tolist()) == [0, 1, 2]
    assert torch.equal(fold, fold[[0, 0, 2, 0, 4, 2]])
    plain = torch.randperm(6, generator=torch.Generator().manual_seed(0)) % 3
    assert torch.equal(folded(6, 3, torch.Generator().manual_seed(0)), plain)
    with pytest.raises(mo.ModelOptError, match="3 clusters of examples make no 5 folds; choose at most 3"):
        folded(6, 5, torch.Generator(), sources)


def test_siblings_do_not_talk_the_folds_into_a_weak_pull():
    """Every example six times, labels drawn: a head that knows the siblings by heart is right about them."""
    draw = torch.Generator().manual_seed(2)
    source = torch.arange(20).repeat_interleave(6)
    x, y = torch.randn(20, 15, generator=draw)[source], torch.randint(0, 2, (20,), generator=draw)[source]
    torn, whole = (
        cross_fitted(x, y, torch.zeros(16, 2), 5, torch.Generator().manual_seed(0), clusters=clusters)
        for clusters in (None, source)
    )
    assert torn.strength < 0.1
    assert whole.strength > 1


def test_the_folds_choose_the_strength():
    """Of those given the one with the least held-out loss; by themselves they stop where it rises, or at once."""
    x, y = drawn(200, 6, 3, noise=4.0)
    start, several = x.new_zeros(7, 3), (1e-4, 0.1, 10.0)
    found = cross_fitted(x, y, start, 5, torch.Generator().manual_seed(0), several)
    losses = dict(found.tried)
    assert set(losses) == set(several)
    assert losses[found.strength] == min(losses.values())
    alone = cross_fitted(x, y, start, 5, torch.Generator().manual_seed(0))
    tried = [loss for _, loss in alone.tried]
    assert tried[:-1] == sorted(tried[:-1], reverse=True)
    assert alone.tried[0] == (math.inf, pytest.approx(math.log(3)))
    assert len(tried) == len(STRENGTHS) + 1 or tried[-1] >= tried[-2]


def test_where_nothing_can_be_learned_the_start_stays():
    """Labels that have nothing to do with the features."""
    draw = torch.Generator().manual_seed(5)
    x, y = torch.randn(60, 8, generator=draw), torch.randint(0, 2, (60,), generator=draw)
    start = 0.01 * torch.randn(9, 2, generator=draw)
    found = cross_fitted(x, y, start, 5, torch.Generator().manual_seed(0))
    assert math.isinf(found.strength)
    assert torch.equal(found.head, start)


@pytest.mark.parametrize(("n", "p", "k"), [(2, 1, 1), (2, 1, 2), (7, 3, 4), (5, 9, 2)])
def test_small_sizes(n, p, k):
    x, y = torch.randn(n, p), torch.arange(n) % k
    found = cross_fitted(x, y, torch.zeros(p + 1, k), 2, torch.Generator().manual_seed(0), (0.1,))
    assert found.head.shape == (p + 1, k)
    assert found.held_out.shape == (n, k)
    assert torch.isfinite(found.head).all()
    assert torch.isfinite(found.held_out).all()


def test_features_that_are_all_alike_or_huge_stay_finite():
    y = torch.arange(40) % 4
    for x in (torch.zeros(40, 3), torch.ones(40, 3), 1e4 * torch.randn(40, 3)):
        found = cross_fitted(x, y, torch.zeros(4, 4), 5, torch.Generator().manual_seed(0), (0.1,))
        assert torch.isfinite(found.head).all()


def test_what_is_refused():
    x, y = torch.randn(3, 2), torch.tensor([0, 1, 0])
    with pytest.raises(mo.ModelOptError, match="3 examples make no 5 folds; choose at most 3"):
        cross_fitted(x, y, torch.zeros(3, 2), 5, torch.Generator())
    with pytest.raises(mo.ModelOptError, match="a strength of 0 is not allowed; strengths are numbers above 0"):
        one(x, y, 2, 0.0)
