"""What every shipped digits model gives at twelve settings stays what it was, until a change says so.

`python -m benchmarks.golden --write` writes the numbers again; `--against COMMIT` compares two commits in full.
"""

from __future__ import annotations

import json

import pytest

from benchmarks import golden

EXACT = ("weights", "n_of_m", "int8", "ensemble")  # the rest is learned or summed: it differs by processor


@pytest.fixture(scope="module")
def rows() -> tuple[list[golden.Row], list[golden.Row]]:
    return json.loads(golden.KEPT.read_text("utf-8")), list(golden.measured(["digits"]))


def test_keys_and_macs_are_what_they_were(rows: tuple[list[golden.Row], list[golden.Row]]) -> None:
    assert len(rows[0]) == len(rows[1]) > 100
    assert golden.differences(*rows, ("key", "macs", "error")) == []


def test_what_needs_no_training_is_the_same_to_the_byte(rows: tuple[list[golden.Row], list[golden.Row]]) -> None:
    exact = [[row for row in side if row["cell"].split()[1] in EXACT] for side in rows]
    assert len(exact[0]) >= 36
    assert golden.differences(*exact) == []


def test_a_difference_is_told_by_cell_and_field() -> None:
    old = [{"cell": "a x", "key": "1", "macs": 5}, {"cell": "b x", "key": "2"}]
    new = [{"cell": "a x", "key": "1", "macs": 6}, {"cell": "c x", "key": "2"}]
    assert golden.differences(old, new) == ["a x: macs 5 → 6", "b x: only in old", "c x: only in new"]
