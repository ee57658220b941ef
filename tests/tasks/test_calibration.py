"""Calibration: by hand, against a numerical minimum, and at the edges."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.ensemble.weights import log_loss
from modelopt_core.tasks.calibration import calibrated, ece, fit_temperature, reliability, tempered


def drawn(n: int, k: int, seed: int = 0, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n, k), and targets drawn from them: calibrated at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    said = (scale * torch.randn(n, k, generator=generator)).log_softmax(1)
    return said, torch.multinomial(said.exp(), 1, generator=generator)[:, 0]


def test_reliability_by_hand():
    """Six examples in three bins of two."""
    confidence = torch.tensor([0.9, 0.5, 0.7, 0.6, 0.8, 1.0])
    scores = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    found = reliability(confidence, scores, bins=3)
    assert [(round(b.confidence, 6), b.score, b.n) for b in found] == [(0.55, 0.5, 2), (0.75, 0.5, 2), (0.95, 1.0, 2)]
    assert ece(confidence, scores, bins=3) == pytest.approx((0.05 + 0.25 + 0.05) / 3)


def test_a_bin_counts_by_its_size_by_hand():
    """Five in two bins: three, 0.6 sure and right once; two, 0.85 sure and right: (3 · 4/15 + 2 · 0.15) / 5."""
    confidence, scores = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9]), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    assert [b.n for b in reliability(confidence, scores, bins=2)] == [3, 2]
    assert ece(confidence, scores, bins=2) == pytest.approx(0.22)
    assert ece(confidence, scores, bins=1) == pytest.approx(0.1)


@pytest.mark.parametrize(("n", "bins"), [(7, 3), (100, 30), (5, 9)])
def test_ece_is_a_loop_over_examples(n, bins):
    """Each example counts once, with the gap of the bin that it lies in."""
    draw = np.random.default_rng(n)
    confidence, scores = draw.random(n), draw.integers(0, 2, n).astype(float)
    rank = np.argsort(np.argsort(confidence))
    where = np.searchsorted(np.cumsum([len(part) for part in np.array_split(range(n), bins)]), rank, side="right")
    gaps = [abs(scores[where == w].mean() - confidence[where == w].mean()) for w in where]
    assert ece(torch.from_numpy(confidence), torch.from_numpy(scores), bins) == pytest.approx(np.mean(gaps))


def test_more_bins_than_examples():
    assert ece(torch.tensor([0.25]), torch.tensor([1.0])) == pytest.approx(0.75)
    with pytest.raises(ModelOptError, match="1 bins of 0 examples make no curve; at least 1 of each is needed"):
        reliability(torch.tensor([]), torch.tensor([]))


@pytest.mark.parametrize(("n", "bins"), [(1, 1), (3, 1), (4, 2), (27, 3), (359, 7), (10_000, 22)])
def test_there_are_as_many_bins_as_the_cube_root(n, bins):
    sure = torch.linspace(0, 1, n)
    found = reliability(sure, sure.round())
    assert len(found) == bins
    assert sum(b.n for b in found) == n
    assert ece(sure, sure.round()) == ece(sure, sure.round(), bins)


def test_of_calibrated_answers_few_examples_seem_off_in_many_bins():
    """What is measured there is chance: the mean over 100 draws of 359 examples that are right as often as they say."""
    draw = torch.Generator().manual_seed(0)
    sure = 1 - 0.3 * torch.rand(100, 359, generator=draw) ** 3
    right = (torch.rand(100, 359, generator=draw) < sure).float()
    many, fewer = (np.mean([ece(c, s, bins) for c, s in zip(sure, right, strict=True)]) for bins in (15, None))
    assert many > 0.02
    assert fewer < 0.8 * many


@pytest.mark.parametrize(("n", "k"), [(50, 2), (300, 10), (2000, 3)])
def test_temperature_is_the_minimum_that_scipy_finds(n, k):
    said, targets = drawn(n, k)
    sharp = tempered(said, 0.4).double()  # overconfident: 1 / 0.4 times too sharp
    found = fit_temperature(sharp, targets)
    best = minimize_scalar(lambda t: log_loss(tempered(sharp, t), targets), bounds=(0.02, 50), method="bounded")
    assert found == pytest.approx(best.x, rel=1e-3)


def test_temperature_undoes_what_was_done():
    said, targets = drawn(20_000, 5)
    fitted = fit_temperature(tempered(said, 0.5), targets)
    assert fitted == pytest.approx(2, rel=0.05)
    right = (said.argmax(1) == targets).float()
    before, after = (tempered(said, t).amax(1).exp() for t in (0.5, 0.5 * fitted))
    assert ece(after, right) < ece(before, right) / 4


@pytest.mark.parametrize("right", [True, False])
def test_temperature_stays_finite_where_every_answer_is_right_or_wrong(right):
    said = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    targets = said.argmax(1) if right else said.argmin(1)
    found = fit_temperature(said, targets)
    assert 0.009 < found < 101
    assert (found < 1) == right
    assert np.isfinite(log_loss(tempered(said, found), targets))


def test_one_class_needs_no_temperature():
    assert np.isfinite(fit_temperature(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)))


def test_before_is_as_it_is_and_after_at_the_temperature():
    said, targets = drawn(5000, 4)
    sharp = tempered(said, 0.4)
    found, right = calibrated(sharp, targets), (said.argmax(1) == targets).float()
    assert found.temperature == fit_temperature(sharp, targets)
    before, after = (tempered(sharp, t).amax(1).exp() for t in (1.0, found.temperature))
    assert (found.before, found.ece_before) == (reliability(before, right), ece(before, right))
    assert (found.after, found.ece_after) == (reliability(after, right), ece(after, right))
    assert found.ece_after < found.ece_before / 3
