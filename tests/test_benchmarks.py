"""What the benchmarks stand on: paired tests against SciPy, rows that survive, recipes that the command takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

import modelopt_core as mo
from benchmarks import ledger, parts
from benchmarks.checkpoints import kept
from benchmarks.paired import Pair, pair
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
    assert any(step.lasts for step in steps)


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
