"""Bits per layer: the knapsack against brute force, and the budget in bytes of the real file."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.steps.quantize.mixed import front


def test_front_by_hand():
    """Two layers of two widths. Of the four choices (3, 9) is beaten by (3, 6), and (4, 8) by both: two are left."""
    states = front([[(1, 5.0), (2, 1.0)], [(1, 4.0), (2, 5.0)]])
    assert [(s.size, s.cost) for s in states] == [(2, 9.0), (3, 5.0)]
    assert [s.picks for s in states] == [(0, 0), (1, 0)]


def test_a_larger_choice_that_costs_the_same_is_beaten():
    assert [s.size for s in front([[(1, 5.0), (2, 5.0), (3, 4.0)]])] == [1, 3]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_front_is_brute_forces(layers, seed):
    """The least cost under every budget that matters, over all choices."""
    draw = np.random.default_rng(seed)
    options = [[(int(draw.integers(0, 30)), float(draw.integers(0, 9))) for _ in range(4)] for _ in range(layers)]
    states = front(options)
    totals = [tuple(map(sum, zip(*picks, strict=True))) for picks in product(*options)]
    for budget in range(30 * layers):
        best = min((cost for size, cost in totals if size <= budget), default=None)
        fit = [s.cost for s in states if s.size <= budget]
        assert (min(fit) if fit else None) == best
    for state in states:
        chosen = [options[i][pick] for i, pick in enumerate(state.picks)]
        assert (state.size, state.cost) == tuple(map(sum, zip(*chosen, strict=True)))


def test_the_file_keeps_the_budget():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    step = mo.Quantize(observer="mse")
    even = mopt.sizes(step.changed(bits=3).apply(model, w)).size_bytes
    found = mo.allocate(model, w, step, budget_bytes=even)
    small = found.apply(model, w)
    assert mopt.sizes(small).size_bytes <= even
    assert {layer for layer, _ in found.layer_bits} == {"fc1", "fc2", "fc3"}
    drop = mo.compare(mo.allocate(model, w, step, budget_bytes=10**6).apply(model, w), model, w).delta.value
    assert abs(drop) < 0.01


def test_what_was_told_of_a_width_is_checked_on_the_file():
    """Widths that code shorter alone than together, by a quarter: the budget is that of the file, not of the sum."""
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    step = mo.Quantize(observer="mse")
    known = [replace(k, size_bytes=k.size_bytes * 3 // 4 if k.bits > 2 else k.size_bytes)
             for k in mo.widths(model, w, step, tried=(2, 4, 8))]  # fmt: skip
    every = {bits: mopt.sizes(step.changed(bits=bits).apply(model, w)).size_bytes for bits in (2, 4, 8)}
    for budget in (every[4] - 1, every[8] - 1, every[2]):
        found = mo.allocate(model, w, step, budget_bytes=budget, known=known)
        assert mopt.sizes(found.apply(model, w)).size_bytes <= budget
    assert mo.allocate(model, w, step, budget_bytes=every[2], known=known) == step.changed(
        layer_bits=tuple((layer, 2) for layer in ("fc1", "fc2", "fc3"))
    )


def test_the_whole_budget_is_used():
    """To the byte: a file of so many bytes is found, and with one byte less it is not."""
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    step, known = mo.Quantize(), list(mo.widths(model, w, mo.Quantize(), tried=(2, 8)))
    whole = step.changed(layer_bits=tuple((layer, 8) for layer in ("fc1", "fc2", "fc3")))
    size = mopt.sizes(whole.apply(model, w)).size_bytes
    assert mo.allocate(model, w, step, budget_bytes=size, known=known) == whole
    assert mo.allocate(model, w, step, budget_bytes=size - 1, known=known) != whole


def test_widths_that_are_known_are_not_tried_again():
    w, model, said = mo.workload("digits"), mo.baseline("digits", "mlp"), []
    known = list(mo.widths(model, w, mo.Quantize()))
    found = mo.allocate(model, w, mo.Quantize(), budget_bytes=4000, known=known, report=said.append)
    assert found == mo.allocate(model, w, mo.Quantize(), budget_bytes=4000)
    assert said == []


def test_the_drop_is_tolerated_and_measured_together():
    w, model, said = mo.workload("digits"), mo.baseline("digits", "mlp"), []
    found = mo.allocate(model, w, mo.Quantize(observer="mse"), tolerated_drop=0.02, tried=(2, 4, 8), report=said.append)
    assert mo.compare(model, found.apply(model, w), w).delta.value >= -0.02
    assert {bits for _, bits in found.layer_bits} <= {2, 4, 8}
    assert [event.step for event in said] == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "give budget_bytes or tolerated_drop, one of the two"),
        ({"budget_bytes": 1, "tolerated_drop": 0.1}, "give budget_bytes or tolerated_drop, one of the two"),
        ({"budget_bytes": 100}, r"a file of 100 bytes is too small: [\d,]+ are the least; raise it"),
        ({"tolerated_drop": -0.5}, "no choice of widths keeps the score within -0.5; allow a larger drop"),
        ({"tolerated_drop": 0.1, "tried": (2, 12)}, "12 bits are not allowed; choose from 1 to 8 and 16"),
    ],
)
def test_bad_input_is_one_line(given, text):
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    with pytest.raises(mo.ModelOptError, match=text):
        mo.allocate(model, w, mo.Quantize(), **{"tried": (2, 8), **given})
