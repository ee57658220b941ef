"""Small models against a large one: what fits into a budget, by hand, and rows that keep to it."""

import pytest

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.studies.single_model import affordable, rivals, widest


@pytest.mark.parametrize(("budget", "count"), [(0.5, 0), (1, 1), (2.9, 1), (3, 2), (100, 3)])
def test_affordable_by_hand(budget, count):
    """1 + 2 + 4: what runs one after the other in so much time."""
    assert affordable([1, 2, 4], budget) == count


def test_widest_is_the_last_that_fits():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    sizes = {bits: mopt.sizes(mo.Quantize(bits=bits).apply(model, w)).size_bytes for bits in range(2, 9)}
    for budget in (sizes[2], sizes[4], sizes[5] - 1, sizes[8], sizes[8] + 1):
        assert widest(model, w, budget) == max(bits for bits, size in sizes.items() if size <= budget)
    assert widest(model, w, sizes[2] - 1) is None
    assert widest(model, w, mopt.sizes(model).size_bytes) is None


def test_rows_keep_to_their_budgets():
    w, pool = mo.workload("digits"), [mo.baseline("digits", "mlp")] * 2
    rows = list(rivals(pool, mo.Ensemble(), mo.baseline("digits", "cnn"), w))
    named = {row.name: row for row in rows}
    assert list(named)[:3] == ["the ensemble", "the ensemble at 4 bits", "the large model"]
    for budget in ("the ensemble", "the ensemble at 4 bits"):
        [row] = [row for row in rows if row.name.endswith(f"no larger than {budget}")]
        assert row.measurement.size_bytes <= named[budget].measurement.size_bytes
    alone = mo.predictions(mo.baseline("digits", "cnn"), w)
    assert named["the large model"].loss == pytest.approx(float(w.loss(alone.outputs, w.val.targets)))
