"""Ensembles: rules, weights and diversity by hand, then against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

import modelopt_core as mo
from modelopt_core.steps.ensemble import (
    RULES,
    best_weights,
    diversity,
    greedy_weights,
    leave_one_out,
    uncertainty,
    weights,
)
from modelopt_core.steps.ensemble.weights import log_loss

P = torch.tensor([[[0.6, 0.3, 0.1]], [[0.2, 0.5, 0.3]]])  # (2 members, 1 example, 3 classes)


def drawn(members: int, n: int, k: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Members of unlike skill: log-probabilities (M, N, K) and the targets (N,)."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(k, (n,), generator=generator)
    noise = torch.randn(members, n, k, generator=generator)
    skill = torch.linspace(0.5, 3, members)[:, None, None] * torch.nn.functional.one_hot(targets, k)
    return (noise + skill).log_softmax(2), targets


def by_hand(rule: str, *weights: float) -> list[float]:
    return RULES[rule](P.log(), torch.tensor(weights))[0].exp().tolist()


def test_mean_by_hand():
    assert by_hand("mean", 0.75, 0.25) == pytest.approx([0.5, 0.35, 0.15])


def test_geometric_by_hand():
    raw = [math.sqrt(0.6 * 0.2), math.sqrt(0.3 * 0.5), math.sqrt(0.1 * 0.3)]
    assert by_hand("geometric", 0.5, 0.5) == pytest.approx([r / sum(raw) for r in raw], abs=1e-6)


def test_geometric_is_the_softmax_of_averaged_logits():
    logits = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.5, 0.3, 0.2])
    expected = torch.log_softmax((weights[:, None, None] * logits).sum(0), dim=-1)
    torch.testing.assert_close(RULES["geometric"](logits.log_softmax(-1), weights), expected)


def test_product_by_hand():
    raw = [0.6 * 0.2, 0.3 * 0.5, 0.1 * 0.3]
    assert by_hand("product", 0.5, 0.5) == pytest.approx([r / sum(raw) for r in raw], abs=1e-6)


def test_logit_by_hand():
    odds = [math.sqrt(a / (1 - a) * b / (1 - b)) for a, b in zip([0.6, 0.3, 0.1], [0.2, 0.5, 0.3], strict=True)]
    raw = [o / (1 + o) for o in odds]
    assert by_hand("logit", 0.5, 0.5) == pytest.approx([r / sum(raw) for r in raw], abs=1e-5)


def test_vote_by_hand():
    assert by_hand("vote", 0.7, 0.3) == pytest.approx([0.7, 0.3, 0], abs=2e-4)
    tie = by_hand("vote", 0.5, 0.5)  # the mean says 0.4, 0.4, 0.2: still a tie
    assert tie[0] == pytest.approx(tie[1])
    assert by_hand("vote", 0.5, 0.5)[2] < 1e-4


def test_borda_by_hand():
    """First member: 2, 1, 0 points; second: 0, 2, 1. Together the middle class wins, which only one put first."""
    assert by_hand("borda", 0.5, 0.5) == pytest.approx([2 / 6, 3 / 6, 1 / 6], abs=2e-4)


def test_two_first_choices_share_a_vote():
    """One member cannot tell the first two apart, the other says the third: 1/4, 1/4, 1/2 with equal weights."""
    said = torch.tensor([[[0.4, 0.4, 0.2]], [[0.1, 0.1, 0.8]]]).log()
    assert RULES["vote"](said, torch.tensor([0.5, 0.5]))[0].exp().tolist() == pytest.approx([0.25, 0.25, 0.5], abs=2e-4)


def test_equals_beat_nobody():
    """Points 1, 1, 0 from a member with a tie, 2, 1, 0 from the other: 3, 2, 0 of 5."""
    said = torch.tensor([[[0.4, 0.4, 0.2]], [[0.5, 0.3, 0.2]]]).log()
    assert RULES["borda"](said, torch.tensor([0.5, 0.5]))[0].exp().tolist() == pytest.approx([0.6, 0.4, 0], abs=2e-4)


@pytest.mark.parametrize("rule", ["vote", "borda"])
def test_the_mean_decides_a_tie(rule):
    """One says the first class a little, the other the second firmly: a vote each."""
    said = torch.tensor([[[0.6, 0.4]], [[0.1, 0.9]]]).log()
    found = RULES[rule](said, torch.tensor([0.5, 0.5]))[0]
    assert found.argmax() == 1
    assert found.exp().tolist() == pytest.approx([0.5, 0.5], abs=2e-4)


@pytest.mark.parametrize("voting", ["soft", "hard"])
def test_mean_and_vote_answer_as_scikit_learn(voting):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 4))
    y = (x[:, 0] + generator.normal(size=400) > 0).astype(int) + (x[:, 1] > 0.5)
    members = [("a", LogisticRegression()), ("b", GaussianNB()), ("c", DecisionTreeClassifier(max_depth=3))]
    weights = [0.5, 0.3, 0.2] if voting == "soft" else [0.45, 0.35, 0.2]  # no two sums are equal
    peer = VotingClassifier(members, voting=voting, weights=weights).fit(x, y)
    said = torch.from_numpy(np.stack([m.predict_proba(x) for m in peer.estimators_])).clamp_min(1e-30).log()
    ours = RULES["mean" if voting == "soft" else "vote"](said, torch.tensor(weights, dtype=said.dtype))
    assert np.array_equal(ours.argmax(1).numpy(), peer.predict(x))
    if voting == "soft":
        np.testing.assert_allclose(ours.exp().numpy(), peer.predict_proba(x), atol=1e-12)


def test_best_weights_by_hand():
    """The truth gets 0.8, 0.8, 0.2 from one member and 0.2, 0.2, 0.8 from the other: 2/3 + 1/6 ... solved on paper.

    With weight w on the first, 0.2 + 0.6 w is said twice and 0.8 − 0.6 w once; 2 ln + ln is greatest at w = 7/9.
    """
    first = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8]])
    found = best_weights(torch.stack([first, 1 - first]).log(), torch.tensor([0, 0, 0]))
    assert found.weights == pytest.approx((7 / 9, 2 / 9), abs=1e-4)
    assert found.loss == pytest.approx(-(2 * math.log(2 / 3) + math.log(1 / 3)) / 3)
    assert found.gap < 1e-6


@pytest.mark.parametrize("rule", [name for name, entry in RULES.items() if entry["convex"]])
@pytest.mark.parametrize(("members", "n"), [(1, 5), (2, 1), (5, 400)])
def test_no_weights_lose_less(rule, members, n):
    """Not equal ones, not one member, not what another of SciPy's methods finds from elsewhere."""
    said, targets = drawn(members, n, 4)
    found = best_weights(said, targets, rule)
    assert sum(found.weights) == pytest.approx(1)
    assert min(found.weights) >= 0

    def loss(weights: np.ndarray) -> float:
        return log_loss(RULES[rule](said.double(), torch.from_numpy(weights)), targets)

    assert loss(np.array(found.weights)) == pytest.approx(found.loss, abs=1e-9)
    tried = [np.full(members, 1 / members), *np.eye(members)]
    other = minimize(lambda z: loss(np.exp(z) / np.exp(z).sum()), np.zeros(members), method="Powell")
    assert min([other.fun, *map(loss, tried)]) >= found.loss - found.gap - 1e-9


def test_the_gap_of_weights_that_are_not_the_best_yet(monkeypatch):
    """Stopped after one iteration: what the best weights gain is more than nothing, and no more than the gap."""
    said, targets = drawn(6, 200, 4)
    best = best_weights(said, targets)
    monkeypatch.setattr(weights, "MOST_ITERATIONS", 1)
    early = best_weights(said, targets)
    assert 1e-4 < early.loss - best.loss <= early.gap


def test_greedy_by_hand():
    """The first member alone is best; each pick after it helps most; a weight is a share of the picks."""
    first = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8]])
    said = torch.stack([first, 1 - first]).log()
    assert greedy_weights(said, torch.zeros(3, dtype=torch.long), rounds=1).weights == (1, 0)
    found = greedy_weights(said, torch.zeros(3, dtype=torch.long), rounds=9)
    assert found.weights == pytest.approx((7 / 9, 2 / 9))  # the optimum is a multiple of 1/9
    assert found.gap == pytest.approx(0, abs=1e-6)


def test_greedy_keeps_its_best_moment_by_hand():
    """The truth gets 0.8, 0.2 from one, 0.2, 0.8 from the other: after two picks ½ twice, after three 0.6 and 0.4.

    After four it is ½ again: of equal moments the first.
    """
    member = torch.tensor([[0.8, 0.2], [0.2, 0.8]])
    said, targets = torch.stack([member, 1 - member]).log(), torch.zeros(2, dtype=torch.long)
    for rounds in (2, 3, 5):
        found = greedy_weights(said, targets, rounds)
        assert found.weights == (0.5, 0.5)
        assert found.loss == pytest.approx(math.log(2))
        assert found.gap == pytest.approx(0, abs=1e-6)
    alone = greedy_weights(said, targets, rounds=1)
    assert (alone.weights, alone.loss) == ((1, 0), pytest.approx(-math.log(0.16) / 2))
    assert alone.gap == pytest.approx((0.2 / 0.8 + 0.8 / 0.2) / 2 - 1)


def test_greedy_gap_bounds_what_solving_gains():
    said, targets = drawn(6, 500, 5)
    solved, picked = best_weights(said, targets), greedy_weights(said, targets)
    assert solved.loss - 1e-12 <= picked.loss <= solved.loss + picked.gap
    assert sum(picked.weights) == pytest.approx(1)


def test_best_weights_refuse_a_loss_with_many_valleys():
    with pytest.raises(mo.ModelOptError, match=r"rules with a convex log loss \(mean, geometric\), not for vo"):
        best_weights(P.log(), torch.tensor([0]), "vote")


def test_diversity_by_hand():
    """Five examples; right: 11100 and 11010. Both 2, neither 1, each alone 1."""
    right = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 1, 0]])
    answers = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 0, 2]])
    found = diversity(answers, right)
    assert found.disagreement[0, 1] == pytest.approx(2 / 5)
    assert found.q[0, 1] == pytest.approx((2 * 1 - 1 * 1) / (2 * 1 + 1 * 1))
    np.testing.assert_allclose(found.correlation.numpy(), np.corrcoef(right.numpy()), atol=1e-12)


def test_q_of_unlike_members_by_hand():
    """Right: 1111000 and 1100100. Both 2, neither 2, the first alone 2, the second alone 1: (4 − 2) / (4 + 2)."""
    right = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0]])
    found = diversity(right, right)
    assert found.q[0, 1] == found.q[1, 0] == pytest.approx(1 / 3)
    np.testing.assert_allclose(found.correlation.numpy(), np.corrcoef(right.numpy()), atol=1e-12)


@pytest.mark.parametrize("right", [torch.ones(2, 3), torch.zeros(2, 3), torch.ones(1, 1)])
def test_diversity_of_models_that_never_differ(right):
    found = diversity(right.long(), right)
    for matrix in (found.disagreement, found.q, found.correlation):
        assert torch.equal(matrix, torch.zeros(len(right), len(right), dtype=torch.float64))


def test_leave_one_out_by_hand():
    weights = torch.tensor([0.75, 0.25])
    added = leave_one_out(P.log(), weights, "mean", lambda said: float(said[0, 0].exp()))
    assert added == pytest.approx((0.5 - 0.2, 0.5 - 0.6))
    assert leave_one_out(P.log()[:1], torch.ones(1), "mean", lambda said: float(said[0, 0].exp())) == pytest.approx(
        (0.6,)
    )


def test_uncertainty_by_hand():
    """Two members, each certain, of opposite opinion: one bit of doubt, all of it disagreement."""
    said = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]).clamp_min(1e-30).log()
    total, between = uncertainty(said, torch.tensor([0.5, 0.5]))
    assert total.tolist() == between.tolist() == pytest.approx([math.log(2)], abs=1e-6)
    same = torch.tensor([[[0.5, 0.5]]] * 3).log()
    total, between = uncertainty(same, torch.full((3,), 1 / 3))
    assert total.tolist() == pytest.approx([math.log(2)])
    assert between.tolist() == pytest.approx([0], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mo.Ensemble(weights=(0, 0)), "all weights are zero, nobody would be asked; give one model a weight"),
        (lambda: mo.Ensemble(weights=(1, -1)), "a weight of -1 is not allowed; weights are numbers ≥ 0"),
        (lambda: mo.Ensemble(weights=(float("nan"),)), "weights=nan is not allowed; weights must be a finite number"),
        (lambda: mo.Ensemble(rule="media"), r"unknown rule 'media' \(did you mean 'mean'\?\)"),
    ],
)
def test_bad_settings(make, text):
    with pytest.raises(mo.ModelOptError, match=text):
        make()


def test_bad_pools():
    w, cnn = mo.workload("digits"), mo.baseline("digits", "cnn")
    with pytest.raises(mo.ModelOptError, match="Ensemble needs at least 2 models, the pool has 1; add another"):
        mo.Ensemble().apply([cnn], w)
    with pytest.raises(
        mo.ModelOptError, match="Ensemble has 3 weights, the pool 2 models; give every model one weight"
    ):
        mo.Ensemble(weights=(1, 1, 1)).apply([cnn, cnn], w)
    fewer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with pytest.raises(
        mo.ModelOptError, match="the models of Ensemble answer with 10, 3 classes; choose models of one"
    ):
        mo.Ensemble().apply([cnn, fewer], w)
    with pytest.raises(mo.ModelOptError, match=r"model 2 of Ensemble does not take inputs \(1, 8, 8\)"):
        mo.Ensemble().apply([cnn, mo.baseline("docstrings", "bag")], w)
