"""What is said of examples does not depend on their order, least of all where their confidences tie."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modelopt_core.steps.cascade import best_thresholds, flow, front
from modelopt_core.steps.distill.softened import soften
from modelopt_core.steps.ensemble import best_weights, diversity, doubtful, greedy_weights, uncertainty
from modelopt_core.tasks.calibration import calibrated, ece, fit_temperature, reliability
from modelopt_core.tasks.statistics import bootstrap, difference, mcnemar, mean_interval

N, K, M = 300, 4, 3


def tied(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three members' log-probabilities (M, N, K) on a coarse grid, so that most confidences tie; targets (N,)."""
    draw = torch.Generator().manual_seed(seed)
    said = torch.randint(0, 3, (M, N, K), generator=draw).float().log_softmax(-1)
    return said, torch.randint(K, (N,), generator=draw)


def numbers(found: object) -> list[float]:
    """All numbers in what was found, in order."""
    if isinstance(found, Tensor):
        return found.double().flatten().tolist()
    if isinstance(found, int | float):
        return [float(found)]
    values = found if isinstance(found, list | tuple) else getattr(found, "__dict__", {}).values()
    return [number for value in values for number in numbers(value)]


def right(said: Tensor, targets: Tensor) -> Tensor:
    return (said.argmax(-1) == targets).float()


STATISTICS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "reliability": lambda said, y: reliability(said[0].amax(1).exp(), right(said[0], y)),
    "ece": lambda said, y: ece(said[0].amax(1).exp(), right(said[0], y)),
    "temperature": lambda said, y: fit_temperature(said[0], y),
    "calibrated": lambda said, y: calibrated(said[0], y),
    "thresholds": lambda said, y: best_thresholds(said.amax(2).exp(), right(said, y), (1.0, 2.0, 4.0), cost=3.0),
    "front": lambda said, y: front(said[:2].amax(2).exp(), right(said[:2], y), (1.0, 2.0)),
    "flow": lambda said, y: replace(
        flow(said.amax(2).exp(), right(said, y), (0.5, 0.4)), at=torch.zeros(0), scores=torch.zeros(0)
    ),
    "weights": lambda said, y: best_weights(said, y).loss,
    "greedy": lambda said, y: greedy_weights(said, y),
    "diversity": lambda said, y: diversity(said.argmax(2), right(said, y)),
    "doubt": lambda said, _: [one[1:] for one in doubtful(said, (0.5, 0.3, 0.2), 40)],
    "mean": lambda said, y: mean_interval(said[0].exp().gather(1, y[:, None])[:, 0]),
    "difference": lambda said, y: difference(right(said[0], y), right(said[1], y)),
    "bootstrap": lambda said, y: bootstrap(right(said[0], y), resamples=50),
    "mcnemar": lambda said, y: list(mcnemar(right(said[0], y), right(said[1], y))),
    "soften": lambda said, y: [soften(said[0], y, 2.0).alike, soften(said[0], y, 2.0).entropy_bits],
}


@pytest.mark.parametrize("name", list(STATISTICS))
def test_shuffled_examples_say_the_same(name):
    said, targets = tied()
    first = numbers(STATISTICS[name](said, targets))
    assert first
    by_truth = right(said[0], targets).argsort(descending=True, stable=True)  # the right ones first: the worst case
    for order in (by_truth, by_truth.flip(0), torch.randperm(N, generator=torch.Generator().manual_seed(1))):
        assert numbers(STATISTICS[name](said[:, order], targets[order])) == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_half_right_at_half_sure_is_calibrated(seed):
    """1,000 examples that are 50 % sure, 500 of them right, in any order: exactly calibrated."""
    scores = (torch.arange(1000) < 500).float()
    scores = scores[torch.randperm(1000, generator=torch.Generator().manual_seed(seed))] if seed else scores
    assert ece(torch.full((1000,), 0.5), scores) == 0
    assert {(b.confidence, b.score) for b in reliability(torch.full((1000,), 0.5), scores)} == {(0.5, 0.5)}


def test_ties_by_hand():
    """0.2 (right), thrice 0.6 (one right), 0.8 and 1.0 (right), in two bins: the ties count ⅓ each."""
    sure, scores = torch.tensor([0.6, 0.2, 0.6, 1.0, 0.6, 0.8]), torch.tensor([1.0, 1, 0, 1, 0, 1])
    low, high = reliability(sure, scores, bins=2)
    assert (low.confidence, low.score) == pytest.approx(((0.2 + 0.6 + 0.6) / 3, (1 + 1 / 3 + 1 / 3) / 3))
    assert (high.confidence, high.score) == pytest.approx(((0.6 + 0.8 + 1.0) / 3, (1 / 3 + 1 + 1) / 3))


def test_without_ties_a_bin_is_its_own_examples():
    draw = torch.Generator().manual_seed(0)
    sure, scores = torch.rand(100, generator=draw), (torch.rand(100, generator=draw) < 0.5).float()
    order = sure.argsort()
    found = reliability(sure, scores, 5)
    assert [b.confidence for b in found] == pytest.approx([float(c.mean()) for c in sure[order].chunk(5)])
    assert [b.score for b in found] == pytest.approx([float(s.mean()) for s in scores[order].chunk(5)])


def test_the_most_disputed_come_first_and_of_those_the_most_doubted():
    said, _ = tied()
    found = doubtful(said, (0.5, 0.3, 0.2), 10)
    total, between = uncertainty(said, torch.tensor([0.5, 0.3, 0.2]))
    expected = sorted(zip((-between).tolist(), (-total).tolist(), strict=True))[:10]
    assert [(-b, -t) for _, t, b in found] == expected
