"""Where a layer's points lie: two channels by hand, NumPy's histogram, and what the Dial can meet."""

import numpy as np
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.models import weight_grid
from modelopt_core.steps.quantize.spread import BINS, MOST_GRIDS, spread

MLP, BITS = mo.baseline("digits", "mlp"), (1, 2, 8, 16)


def at_bits(layer="fc1", **given):
    w, unit = mo.workload("digits"), given.get("per", "channel")
    return spread(MLP, {b: mo.Quantize(bits=b, **given).apply(MLP, w) for b in BITS}, layer, unit)


def test_two_channels_by_hand():
    """(1, −1) on the points −1, 0, 1 and (4, 1) on −4, 0, 4: the finest grid comes first, one weight moved by 1."""
    before, after = (nn.Sequential(nn.Linear(2, 2, bias=False)) for _ in range(2))
    for net, weights in ((before, [[4.0, 1.0], [1.0, -1.0]]), (after, [[4.0, 0.0], [1.0, -1.0]])):
        net[0].weight = nn.Parameter(torch.tensor(weights))
    weight_grid.attach(after[0], weight_grid.Grid(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0]), 3))
    found = spread(before, {2: after}, "0", "channel")
    assert (found.low, found.high) == pytest.approx((-1 - 2.5 / BINS, 4 + 2.5 / BINS))
    shown = found.at[2]
    assert (shown.levels, shown.of, shown.grids) == (3, 2, [1, 0])
    assert (shown.scale, shown.zero_point, shown.points) == ([1.0, 4.0], [1.0, 1.0], None)
    assert shown.snr_db == pytest.approx(10 * np.log10(19 / 1))
    assert [sum(counts) for counts in (found.before, shown.after)] == [4, 4]


@pytest.mark.parametrize("given", [{}, {"per": "tensor"}, {"per": "group", "group": 2}, {"scheme": "affine"}], ids=str)
def test_counts_are_numpys_and_points_are_the_grids(given):
    found, weight = at_bits(**given), MLP.fc1.weight.detach().numpy().ravel()
    assert found.before == np.histogram(weight, BINS, (found.low, found.high))[0].tolist()
    for bits, shown in found.at.items():
        small = mo.Quantize(bits=bits, **given).apply(MLP, mo.workload("digits")).fc1
        counts = np.histogram(small.weight.detach().numpy().ravel(), BINS, (found.low, found.high))[0]
        assert np.abs(counts - shown.after).sum() <= 4  # values on an edge between two bins
        assert shown.levels == small.weight_levels
        assert shown.of == small.weight_scale.numel()
        assert len(shown.grids) == len(set(shown.grids)) == min(shown.of, MOST_GRIDS)
        assert shown.scale == sorted(shown.scale)
        assert shown.scale == pytest.approx(small.weight_scale.flatten()[shown.grids].tolist(), rel=1e-4)


def test_a_codebook_has_its_values_unless_they_are_too_many():
    found = at_bits(scheme="codebook")
    assert [len(found.at[b].points) for b in BITS] == [2, 4, found.at[8].levels, 0]
    assert found.at[8].levels <= 256 < found.at[16].levels
    assert found.at[8].points == sorted(found.at[8].points)


def test_a_layer_that_keeps_its_floats():
    shown = at_bits(layer_bits={"fc1": 32}).at[2]
    assert (shown.levels, shown.snr_db, shown.grids) == (0, None, None)


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_constant_weights_have_a_histogram(value):
    net = nn.Sequential(nn.Linear(1, 1))
    net[0].weight = nn.Parameter(torch.full((1, 1), value))
    found = spread(net, {}, "0")
    assert found.low < value < found.high
    assert sum(found.before) == 1


def test_an_unknown_layer_is_one_line():
    with pytest.raises(mo.ModelOptError, match="unknown layer 'fc9' .*choose from fc1, fc2, fc3"):
        spread(MLP, {}, "fc9")
