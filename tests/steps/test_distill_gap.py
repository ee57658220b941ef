"""What a teacher was worth, from scores written by hand; and what temperature does to logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import entr, softmax

import modelopt_core as mo
from modelopt_core.steps.distill import telling
from modelopt_core.steps.distill.gap_closed import closed


def test_half_of_the_gap_by_hand() -> None:
    """Teacher 4 of 4, student alone 2 of 4, with it 3 of 4: half of the gap, in each of two seeds."""
    alone, with_it = np.array([[1, 1, 0, 0.0]] * 2), np.array([[1, 1, 1, 0.0]] * 2)
    many = closed(np.ones(400), np.tile(alone, 100), np.tile(with_it, 100))
    assert (many.teacher, many.alone, many.distilled) == (1.0, (0.5, 0.5), (0.75, 0.75))
    assert many.gain.value == 0.25
    assert many.share is not None
    assert many.share.value == 0.5
    assert many.share.low < 0.5 < many.share.high
    assert closed(np.ones(4), alone, with_it).share is None, "of four examples half may be luck"


def test_intervals_are_those_of_examples_and_seeds_drawn_one_by_one() -> None:
    draw = np.random.default_rng(1)
    s, n = 4, 300
    teacher = (draw.random(n) < 0.95).astype(float)
    hard = draw.random(n) < 0.4
    alone = np.stack([np.where(hard, draw.random(n) < 0.3 + 0.1 * i, 1.0) for i in range(s)])
    distilled = np.stack([np.where(hard, draw.random(n) < 0.6 + 0.05 * i, 1.0) for i in range(s)])
    found = closed(teacher, alone, distilled, resamples=4000)
    gains, shares = [], []
    for _ in range(4000):
        at, seeds = draw.integers(n, size=n), draw.integers(s, size=s)
        t, a, d = teacher[at].mean(), alone[seeds][:, at].mean(), distilled[seeds][:, at].mean()
        gains.append(d - a)
        shares.append((d - a) / (t - a))
    assert found.share is not None
    for estimate, values in ((found.gain, gains), (found.share, shares)):
        low, high = np.quantile(values, (0.025, 0.975))
        assert estimate.low == pytest.approx(low, abs=0.03)
        assert estimate.high == pytest.approx(high, abs=0.03)


def test_no_gap_no_share() -> None:
    same = np.ones((1, 50))
    found = closed(np.ones(50), same, same)
    assert found.share is None
    assert (found.gain.value, found.gain.low, found.gain.high) == (0, 0, 0)


@pytest.mark.parametrize("shapes", [((5,), (2, 5), (1, 5)), ((4,), (2, 5), (2, 5)), ((5,), (0, 5), (0, 5))])
def test_scores_of_other_examples_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(mo.ModelOptError, match=r"scores must be \(N,\) and twice \(S, N\); got"):
        closed(*(np.ones(shape) for shape in shapes))


def test_gap_trains_each_student_once_from_each_seed() -> None:
    w, teacher = mo.workload("digits"), mo.baseline("digits", "mlp")
    step = mo.Distill(epochs=1, batch_size=256)
    seen: list[object] = []
    found = mo.gap(step, teacher, w, seeds=2, report=seen.append)
    for seed in (0, 1):
        for each, scores in ((step.alone, found.alone), (step, found.distilled)):
            student = each.apply(teacher, w, seed=seed)
            assert scores[seed] == pytest.approx(float(mo.predictions(student, w).scores.mean()))
    said = [(e.step, e.total) for e in seen if isinstance(e, mo.Progress) and e.phase == "gap"]
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert step.alone.changed(temperature=9.0).alone == step.alone == step.changed(loss="hint").alone
    with pytest.raises(mo.ModelOptError, match="seeds=0 is not allowed; choose 1 or more"):
        mo.gap(step, teacher, w, seeds=0)


def test_softening_by_hand() -> None:
    """Logits ln 9, ln 1, ln 1 at T = 2: square roots 3 : 1 : 1."""
    found = mo.soften(torch.tensor([[9.0, 1.0, 1.0], [1.0, 9.0, 1.0]]).log(), torch.tensor([0, 0]), 2.0)
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2]]))
    torch.testing.assert_close(found.alike[0], torch.tensor([0, 2 / 3, 1 / 3]))  # 0.2 + 0.6 against 0.2 + 0.2
    assert float(found.alike[1:].abs().sum()) == 0, "no example of these classes"
    assert found.entropy_bits == pytest.approx(-(0.6 * math.log2(0.6) + 0.4 * math.log2(0.2)))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 2), (7, 3), (200, 10)])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0, 1e6])
def test_softening_is_scipys(n: int, k: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(n)
    logits, labels = 9 * torch.randn(n, k, generator=draw), torch.randint(0, k, (n,), generator=draw)
    found = mo.soften(logits, labels, temperature)
    expected = softmax(logits.double().numpy() / temperature, axis=1)
    np.testing.assert_allclose(found.probabilities.numpy(), expected, atol=1e-5)
    assert found.entropy_bits == pytest.approx(entr(expected).sum(axis=1).mean() / math.log(2), abs=1e-4)
    rows = found.alike.sum(dim=1)
    assert bool(((rows - 1).abs().lt(1e-5) | (rows == 0)).all())
    assert float(found.alike.diagonal().abs().sum()) == 0
    again = 9 * torch.randn(n, k, generator=torch.Generator().manual_seed(n))
    assert torch.equal(logits, again), "what comes in stays"


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_named(temperature: float) -> None:
    with pytest.raises(mo.ModelOptError, match=r"temperature=.* is not allowed; choose a finite number above 0"):
        mo.soften(torch.zeros(1, 2), torch.tensor([0]), temperature)


def test_labels_of_other_examples_are_refused() -> None:
    with pytest.raises(mo.ModelOptError, match=r"logits \(2, 3\) and labels \(1,\) must be \(N, K\) and \(N,\)"):
        mo.soften(torch.zeros(2, 3), torch.tensor([0]), 1.0)


def test_telling_examples_are_mostly_unsure_ones() -> None:
    """Logits (0, x): the larger |x|, the surer."""
    x = torch.tensor([5.0, 0.1, 3.0, 0.2, 4.0, 1.0, 2.0, 0.3])
    logits, labels = torch.stack([torch.zeros(8), x], dim=1), torch.tensor([0, 1] * 4)
    assert telling(logits, 3, labels).tolist() == [1, 3, 0]
    assert telling(logits, 99, labels, of_class=1).tolist() == [1, 3, 5]  # ranks 0, 1 and 3 of 1, 3, 7, 5
    assert telling(logits, 1, labels).tolist() == [1]
    assert telling(logits, 5, labels, of_class=7).tolist() == []
