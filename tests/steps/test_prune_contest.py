"""Criteria against each other: the tests by hand and by SciPy, and every cell a real prune."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as distributions

import modelopt_core as mo
from modelopt_core.steps.prune import Cell, contest, duels, entrants, spreads
from modelopt_core.steps.prune.contest import RATIOS, SEEDS, drawn, length


def cell(name: str, right: list[int], ratio: float = 0.5, seed: int = 0) -> Cell:
    return Cell(name, ratio, seed, np.array(right, dtype=bool))


def test_a_spread_by_hand() -> None:
    """2 of 4 right with one seed, 4 of 4 with the other."""
    found = spreads([cell("random", [1, 1, 0, 0]), cell("random", [1, 1, 1, 1], seed=1), cell("l1", [1, 0, 0, 0], 0.1)])
    (l1,), (random,) = found["l1"], found["random"]
    assert (random.mean, random.low, random.high, random.seeds) == (0.75, 0.5, 1.0, 2)
    assert (l1.ratio, l1.mean, l1.low, l1.high, l1.seeds) == (0.1, 0.25, 0.25, 0.25, 1)


def test_a_duel_by_hand() -> None:
    """12 lost and none won: p = 2 / 2¹² < 0.05; against itself shifted by one: nothing clear."""
    ours, theirs = cell("hebbian", [0] * 12 + [1] * 8), cell("l1", [1] * 20)
    (found,) = duels([ours, theirs], "hebbian")
    assert (found.rival, found.p, found.verdict) == ("l1", 2 / 2**12, "worse")
    assert found.delta.value == pytest.approx(-0.6)
    (back,) = duels([ours, theirs], "l1")
    assert (back.rival, back.verdict) == ("hebbian", "better")
    (near,) = duels([ours, cell("l2", [1] + [0] * 11 + [1] * 8)], "hebbian")
    assert (near.p, near.verdict) == (1.0, "")


def test_several_seeds_are_compared_by_the_mean_of_each_example() -> None:
    draw = np.random.default_rng(0)
    ours = [cell("hebbian", list(draw.integers(0, 2, 50)), seed=seed) for seed in range(3)]
    theirs = [cell("random", list(draw.random(50) < 0.8), seed=seed) for seed in range(5)]
    (found,) = duels([*ours, *theirs], "hebbian")
    change = np.mean([c.scores for c in ours], axis=0) - np.mean([c.scores for c in theirs], axis=0)
    z = change.mean() / distributions.sem(change)
    assert found.p == pytest.approx(2 * distributions.norm.sf(abs(z)))
    assert found.delta.value == pytest.approx(change.mean())


def test_where_both_guess_nothing_is_won() -> None:
    cells = [cell("hebbian", [1, 1] + [0] * 18), cell("l1", [0] * 20), cell("l2", [1] * 20)]
    assert [d.rival for d in duels(cells, "hebbian", chance=0.1)] == ["l2"]


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_who_enters(granularity: str) -> None:
    w = mo.workload("digits")
    with_norm, without = (
        entrants(mo.baseline("digits", name), w, mo.Prune(granularity=granularity)) for name in ("cnn", "mlp")
    )
    assert ("bn_scale" in with_norm, "bn_scale" in without) == (granularity == "channel", False)
    assert ("fpgm" in without) == (granularity == "channel")
    assert {"l1", "random", "hebbian"} < set(without)


def test_every_cell_is_a_real_prune_and_the_seeds_differ() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    step, names = mo.Prune(granularity="channel", recovery="none"), ["l1", "random", "taylor"]
    cells = list(contest(model, w, step, names))
    assert len(cells) == length(names) == len(RATIOS) * (1 + 2 * SEEDS)
    for found in (c for c in cells if c.ratio == 0.5):
        real = step.changed(criterion=found.criterion, ratio=0.5).apply(model, w, seed=found.seed)
        assert np.array_equal(found.scores, mo.predictions(real, w).scores.numpy())
    for name in ("random", "taylor"):
        answers = {c.scores.tobytes() for c in cells if (c.criterion, c.ratio) == (name, 0.5)}
        assert len(answers) > 1
    assert [drawn(name) for name in ("l1", "random", "hebbian", "bn_scale")] == [False, True, True, False]
    assert not math.isnan(sum(s.mean for points in spreads(cells).values() for s in points))
