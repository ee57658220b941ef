"""The list of mutants holds: every mistake can still be made, its tests exist, and what came of it is told rightly."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.mutants.__main__ import MUTANTS, report
from benchmarks.mutants.removed import REMOVED
from benchmarks.mutants.rewrite import Gone, rewritten, source_of
from benchmarks.mutants.trial import PLACES, Mutant, Result, Trials, status, table

SOURCE = '''
LIMITS = (1, 2)

class Box:
    def size(self, n):
        """n − 1"""
        if n > 1:
            return self.side ** (n - 1)
        return 0

def free(n):
    return n - 1
'''


def change(name: str, before: str, after: str) -> str:
    return ast.unparse(rewritten(SOURCE, name, before, after))


def test_an_expression_a_statement_and_a_constant_by_hand() -> None:
    whole = ast.unparse(ast.parse(SOURCE))
    assert change("Box.size", "(n-1)", "n") == whole.replace("self.side ** (n - 1)", "self.side ** n")
    assert change("Box.size", "return 0", "n += 1; return n") == whole.replace("return 0", "n += 1\n        return n")
    assert change("LIMITS", "( 1,\n 2 )", "(1, 3)") == whole.replace("(1, 2)", "(1, 3)")
    assert change("free", "n - 1", "n") == whole.replace("return n - 1", "return n")


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        ("Box.size", "n + 1", "n", r"Box.size: 'n \+ 1' is there 0 times, not once; it is no longer there as it was"),
        ("Box.size", "n", "1", "'n' is there 2 times, not once"),
        ("Box.area", "n", "1", "Box.area: 'area' is defined 0 times, not once"),
        ("box.size", "n", "1", "'box' is defined 0 times"),
        ("free", "n - 1", "return n", "'n - 1' is Expr and 'return n' is Return; give twice an expression or a"),
    ],
)
def test_what_is_no_longer_there_is_one_line(name: str, before: str, after: str, text: str) -> None:
    with pytest.raises(Gone, match=text) as error:
        change(name, before, after)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mutant", [*MUTANTS, *(m for m, _ in REMOVED)], ids=lambda mutant: mutant.function)
def test_every_mistake_can_be_made(mutant: Mutant, root: Path) -> None:
    module, _, name = mutant.function.partition(":")
    path = source_of(module, root)
    source = path.read_text("utf-8")
    tree = rewritten(source, name, mutant.before, mutant.after)
    assert ast.dump(tree) != ast.dump(ast.parse(source))
    compile(tree, str(path), "exec")


def test_every_test_is_there(root: Path, sources: dict[str, ast.Module]) -> None:
    for mutant in MUTANTS:
        for test in mutant.tests.split():
            path, _, name = test.partition("::")
            defined = {node.name for node in sources[path].body if isinstance(node, ast.FunctionDef)}
            assert name in defined if name else any(n.startswith("test_") for n in defined), test


def test_the_list_is_long_and_has_every_place() -> None:
    assert len(MUTANTS) >= 80
    assert max(Counter(m.text for m in MUTANTS).values()) == 1
    found = Counter(m.place for m in MUTANTS if m.place)
    assert set(found) == set(PLACES)
    assert min(found.values()) >= 3, "one mistake of several is no place that is watched"


def made(outcome: str, place: str = "") -> Result:
    return Result(Mutant("m:f", "a | b", "a", "tests/test_x.py", place), outcome, "test_a", 1.0)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([made("caught")] * 20, 0),
        ([made("caught")] * 19 + [made("lives")], 0),  # 95 %
        ([made("caught")] * 18 + [made("lives")], 1),
        ([made("caught")] * 99 + [made("lives", PLACES[0])], 1),
        ([made("caught")] * 99 + [made("broken")], 1),
    ],
)
def test_the_exit_status_by_hand(results: list[Result], expected: int) -> None:
    assert status(results) == expected


def test_what_lives_is_told_first() -> None:
    rows = table([made("caught"), made("lives", PLACES[0])])[2:]
    assert rows[0].startswith(r"| `m:f` | `a \| b` → `a` | " + f"{PLACES[0]} | **lives**")
    assert rows[1].endswith("| test_a | 1 |")
    assert "1 of 2 caught" in report([made("caught"), made("lives")], 60.0)


def test_real_tests_meet_a_real_mistake() -> None:
    """One is caught, one lives, one is nowhere imported, one loops: each in its own fork, whatever came before."""
    tests, trials = "tests/workloads/test_augment.py", Trials()
    trial = [
        (Mutant("workloads.augment:shift", "2 * pixels + 1", "2 * pixels", tests), "caught"),
        (
            Mutant(
                "workloads.augment:shift",
                "2 * pixels + 1",
                "1",
                f"{tests}::test_drop_words_only_ever_pads",
            ),
            "lives",
        ),
        (Mutant("steps.fuse.path:barrier", "max", "min", tests), "broken"),
        (
            Mutant("workloads.augment:shift", "b, _, h, w = images.shape", "while 1: pass", tests),
            "caught",
        ),
        (Mutant("workloads.augment:shift", "3 * pixels", "0", tests), "broken"),
    ]
    found = [trials.tried(mutant, 2 if "while" in mutant.after else 200) for mutant, _ in trial]
    trials.close()
    assert [(r.mutant, r.outcome) for r in found] == trial, [r.by for r in found]
    assert found[0].by.startswith("test_")
    assert [r.by for r in found[1:4:2]] == ["", "no end in time"]
    assert "no longer there" in found[4].by
