"""What the benchmarks stand on: paired tests against SciPy, rows that survive, recipes that the command takes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest, ttest_1samp

import modelopt_core as mo
from benchmarks import crowd, ledger, parts
from benchmarks.checkpoints import kept
from benchmarks.paired import Crossed, Pair, pair
from modelopt_core.errors import ModelOptError

RECIPES = sorted((Path(__file__).parent.parent / "benchmarks" / "recipes").glob("*.json"))


def test_a_pair_by_hand() -> None:
    """Of four answers one was lost and two were won: one more is right, 25 points."""
    found = pair(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True]))
    assert found == Pair(won=2, lost=1, n=4)
    assert found.delta == 25.0
    assert found.p == 1.0
    assert found + found == Pair(4, 2, 8)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (0, 5), (3, 9), (40, 12), (700, 800)])
def test_p_is_scipys_exact_binomial(won: int, lost: int) -> None:
    theirs = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert Pair(won, lost, 10_000).p == pytest.approx(theirs, rel=1e-9)


def test_checkpoints_are_the_unit_by_hand() -> None:
    """One checkpoint gains both examples, the other none: 50 points, with an error of 50. t = 1 with one degree."""
    found = Crossed.of([torch.tensor([1, 1]), torch.tensor([0, 0])])
    assert found == Crossed(won=(2, 0), lost=(0, 0), common=2, n=2)
    assert found.pair == Pair(2, 0, 4)
    assert found.p == pytest.approx(0.5)
    assert found.interval == pytest.approx((50.0, 12.7062 * 50), rel=1e-5)


def test_examples_that_go_together_count_once() -> None:
    """All checkpoints lose the same 4 of 100 examples: more checkpoints make that no surer."""
    change = torch.zeros(100).index_fill(0, torch.arange(4), -1).long()
    few, many = (Crossed.of([change] * seeds) for seeds in (3, 30))
    assert few.interval[1] > many.interval[1] > 3  # never below that of four examples
    assert many.p > 0.01


@pytest.mark.parametrize("seeds", [2, 3, 16])
def test_p_is_no_smaller_than_students_over_the_checkpoints(seeds: int) -> None:
    generator = torch.Generator().manual_seed(seeds)
    changes = [torch.randint(-1, 2, (50,), generator=generator) for _ in range(seeds)]
    alone = ttest_1samp([change.double().mean().item() for change in changes], 0).pvalue
    assert Crossed.of(changes).p >= alone * (1 - 1e-9)
    even = [torch.full((50,), sign) for sign in [1, 0] * seeds][:seeds]  # examples do not differ: Student's
    assert Crossed.of(even).p == pytest.approx(ttest_1samp([float(e[0]) for e in even], 0).pvalue)


def test_p_is_small_no_more_often_than_it_says() -> None:
    """No difference between the ways, but checkpoints and examples that lean either way: 5 % lie below 0.05.

    McNemar's over all answers calls most of them clear, because it takes the answers of a checkpoint for independent.
    """
    generator, below, pooled = torch.Generator().manual_seed(0), 0, 0
    for _ in range(300):
        lean = sum(0.15 * torch.randn(shape, generator=generator) for shape in ((6, 1), (1, 100)))
        drawn = torch.rand(6, 100, generator=generator)
        change = (drawn < (0.2 + lean).clamp(0, 0.5)).long() - (drawn > 1 - (0.2 - lean).clamp(0, 0.5)).long()
        found = Crossed.of(list(change))
        below, pooled = below + (found.p < 0.05), pooled + (found.pair.p < 0.05)
    assert 5 <= below <= 27  # of 300: within three standard errors of 5 %, and a little below
    assert pooled > 100


def test_one_checkpoint_or_no_change_says_nothing() -> None:
    assert Crossed.of([torch.tensor([1, 1, 0])]).p == 1.0
    assert Crossed.of([torch.zeros(3).long()] * 2).p == 1.0
    assert Crossed.of([torch.zeros(3).long()] * 2).interval == (0.0, 0.0)


def test_rows_are_found_again_by_their_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RESULTS", tmp_path)
    assert ledger.rows("x") == []
    for seed in (0, 1):
        ledger.append("x", net="cnn", seed=seed, error=0.5)
    assert [row["seed"] for row in ledger.rows("x")] == [0, 1]
    assert [row["error"] for row in ledger.rows("x", net="cnn", seed=1)] == [0.5]
    assert ledger.rows("x", net="mlp") == []
    assert "torch" in ledger.rows("x")[0]["machine"]


def test_a_kept_network_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.checkpoints.CACHE", tmp_path / "cache")
    like, made = mo.baseline("digits", "cnn"), []

    def make() -> torch.nn.Module:
        made.append(1)
        return mo.Prune(ratio=0.5, granularity="weight").apply(like, mo.workload("digits"))

    first, again = (kept("one", like, make) for _ in "ab")
    assert made == [1]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_recipes(path: Path) -> None:
    steps = mo.from_json(path.read_text())
    assert mo.from_json(mo.to_json(steps)) == steps
    assert any(step.lasts(mo.workload("digits")) for step in steps)


def test_parts_that_are_not_asked_for_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "RESULTS", tmp_path)
    tables = {"one": lambda: iter(["first"]), "two": lambda: iter(["second"])}
    parts.write("made", "Made", tables, [])
    parts.write("made", "Made", {**tables, "two": lambda: iter(["third"])}, ["two"])
    text = (tmp_path / "made.md").read_text()
    assert text.startswith("# Made\n\n<!-- part: one -->\n")
    assert "first" in text
    assert "third" in text
    assert "second" not in text
    with pytest.raises(ModelOptError, match="unknown part 'three'; choose from one, two"):
        parts.write("made", "Made", tables, ["three"])


def test_a_small_class_gets_the_answers_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORKLOAD": "digits", "MODEL": "mlp", "THINKS_S": 0.0}.items():
        monkeypatch.setattr(crowd, name, value)
    monkeypatch.setattr("modelopt_core.runtime.latency.REPEATS", 3)
    with ThreadPoolExecutor(3) as threads:
        played = list(threads.map(crowd.session, range(3), [2] * 3))
    assert [len(made) for made in played] == [3, 3, 3]
    assert "one thread alone gives: 0 of 9." in crowd.table(played)
    played[1][2] = replace(played[1][2], answer=(0.0, 0, 0, 0, 0.0, 0))
    assert "one thread alone gives: 1 of 9." in crowd.table(played)
