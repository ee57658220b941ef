"""Quantization: a grid worked by hand, PyTorch's own fake quantization as the reference, and the edges."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.cluster import KMeans
from torch import nn

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.machine.events import silent
from modelopt_core.models import weight_grid
from modelopt_core.steps.quantize import Scheme, observers, quantize_tensor
from modelopt_core.steps.quantize.codebook import kmeans


def quantize(weight, bits, kind="symmetric", per="tensor", observer="absmax", group=0, rounding="nearest", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return quantize_tensor(weight, Scheme(bits, kind, per, observer, group), rounding, generator, silent)


def test_two_bits_by_hand():
    """Symmetric, 2 bits: three levels −1, 0, 1 times scale 0.8; −0.5 is nearer to −0.8 than to 0."""
    values, lattice = quantize(torch.tensor([[0.8, -0.5, 0.3, 0.39]]), 2)
    assert (lattice.levels, lattice.zero_point.tolist()) == (3, [1.0])
    torch.testing.assert_close(lattice.scale, torch.tensor([0.8]))
    torch.testing.assert_close(values, torch.tensor([[0.8, -0.8, 0.0, 0.0]]))


def test_affine_by_hand():
    """Affine, 2 bits, −1 … 2: four levels, scale 1, zero point 1."""
    values, lattice = quantize(torch.tensor([[-1.0, 0.4, 0.6, 2.0]]), 2, "affine")
    assert (lattice.levels, lattice.scale.tolist(), lattice.zero_point.tolist()) == (4, [1.0], [1.0])
    assert values.tolist() == [[-1.0, 0.0, 1.0, 2.0]]


def test_one_bit_is_plus_or_minus():
    values, lattice = quantize(torch.tensor([[0.8, -0.5, 0.3]]), 1)
    assert lattice.levels == 2
    torch.testing.assert_close(values.abs(), torch.full((1, 3), 0.8))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 2, 3, 3)])
def test_equals_torch_fake_quantize(bits, shape):
    """The same scale and zero point through torch's own kernels, per tensor and per channel, symmetric and affine."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    for scheme in ("symmetric", "affine"):
        values, g = quantize(weight, bits, scheme, "tensor")
        reference = torch.fake_quantize_per_tensor_affine(weight, float(g.scale), int(g.zero_point), 0, g.levels - 1)
        torch.testing.assert_close(values, reference, atol=1e-6, rtol=1e-5)
        values, g = quantize(weight, bits, scheme, "channel")
        reference = torch.fake_quantize_per_channel_affine(weight, g.scale, g.zero_point.int(), 0, 0, g.levels - 1)
        torch.testing.assert_close(values, reference, atol=1e-6, rtol=1e-5)


def test_groups_by_hand():
    """A scale for every two weights in a row, and one for the last alone: 2 bits, so scale = largest of the group."""
    values, lattice = quantize(
        torch.tensor([[1.0, -0.2, 4.0, 1.0, 3.0], [0.0, 0.0, 2.0, -2.0, 5.0]]), 2, group=2, per="group"
    )
    assert lattice.scale.tolist() == [[1.0, 4.0, 3.0], [1.0, 2.0, 5.0]]
    assert values.tolist() == [[1.0, 0.0, 4.0, 0.0, 3.0], [0.0, 0.0, 2.0, -2.0, 5.0]]


@pytest.mark.parametrize("kind", ["symmetric", "affine"])
@pytest.mark.parametrize(
    ("shape", "group"), [((1, 1), 2), ((3, 7), 3), ((3, 8), 4), ((4, 2, 3, 3), 32), ((2, 3, 5), 5)]
)
def test_groups_are_what_their_parts_are_alone(shape, group, kind):
    """Every run of `group` weights gets the values that it would get as a tensor of its own."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for observer in mo.OBSERVERS:
        values, _ = quantize(weight, 3, kind, "group", observer, group)
        rows, found = weight.flatten(1), values.flatten(1)
        for row, start in product(range(len(rows)), range(0, rows.shape[1], group)):
            alone, _ = quantize(rows[row : row + 1, start : start + group], 3, kind, "tensor", observer)
            assert torch.equal(found[row : row + 1, start : start + group], alone)


def test_two_shared_values_by_hand():
    """1, 2 and 9, 10 fall into two clusters with the means 1.5 and 9.5."""
    values, book = quantize(torch.tensor([[1.0, 9.0], [10.0, 2.0]]), 1, "codebook")
    assert book.points.tolist() == [1.5, 9.5]
    assert values.tolist() == [[1.5, 9.5], [9.5, 1.5]]


@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_kmeans_is_scikit_learns(k):
    """The same means as Lloyd's algorithm of scikit-learn from the same start."""
    values = torch.randn(500, generator=torch.Generator().manual_seed(k)).double()
    start = np.linspace(float(values.min()), float(values.max()), k)[:, None]
    theirs = KMeans(k, init=start, n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(values.numpy()[:, None])
    np.testing.assert_allclose(kmeans(values, k).numpy(), np.sort(theirs.cluster_centers_[:, 0]), atol=1e-9)


@pytest.mark.parametrize("values", [[0.0], [3.0], [0.0, 0.0, 2.0], [-1.0, -1.0, 4.0, 0.0], [0.5, -8.0, 0.0]])
@pytest.mark.parametrize("bits", [1, 4])
def test_shared_values_of_few_weights(values, bits):
    """Where there are no more different weights than values, each is its own; a zero stays an exact zero."""
    weight = torch.tensor([values])
    found, book = quantize(weight, bits, "codebook")
    assert (found[weight == 0] == 0).all()
    assert book.levels <= 2**bits
    if len(set(values)) <= 2**bits:
        torch.testing.assert_close(found, weight, rtol=1e-6, atol=0)


def test_pruned_weights_stay_pruned_in_a_codebook():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    pruned = mo.Prune(ratio=0.7, granularity="weight").apply(model, w)
    small = mo.Quantize(bits=3, scheme="codebook").apply(pruned, w)
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.Linear):
            assert (small.get_submodule(name).weight[layer.weight == 0] == 0).all()
            assert len(small.get_submodule(name).weight.unique()) <= 8


@pytest.mark.parametrize("kind", ["symmetric", "affine"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_mse_finds_the_best_of_its_shares(bits, kind):
    """No share of the range that it tries has a smaller error, and the whole range is one of them."""
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(bits)) ** 3
    best = (quantize(rows, bits, kind, "channel", "mse")[0] - rows).square().sum(dim=1)
    for share in observers.SHARES:
        low, high = observers.ends(torch.cat([rows, -rows], 1) if kind == "symmetric" else rows)
        levels = Scheme(bits, kind).levels
        scale, zero = observers.between(share * low, share * high, levels)
        zero = torch.full_like(zero, (levels - 1) / 2) if kind == "symmetric" else zero.round()
        tried = weight_grid.Grid(scale, zero, levels)
        assert (best <= (tried.values(tried.nearest(rows)) - rows).square().sum(dim=1) + 1e-5).all()


def test_percentile_is_numpys_with_one_in_a_thousand_left_out():
    rows = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
    scale, zero_point = mo.OBSERVERS["percentile"](rows, 256)
    low, high = (np.quantile(rows.numpy(), q, axis=1, method=m) for q, m in ((0.001, "higher"), (0.999, "lower")))
    np.testing.assert_allclose(-zero_point * scale, low, rtol=0.02)
    np.testing.assert_allclose((255 - zero_point) * scale, high, rtol=0.02)


def test_entropy_is_the_least_divergence_of_its_shares():
    """Against SciPy: the histogram, and the histogram with every level's count spread over its bins."""
    rows, levels = torch.randn(1, 4000, generator=torch.Generator().manual_seed(2)) ** 3, 16
    low, high = float(rows.min()), float(rows.max())
    counts, edges = np.histogram(rows.numpy(), 128, (low, high))
    centers, costs = (edges[1:] + edges[:-1]) / 2, []
    for share in observers.SHARES:
        scale = share * (high - low) / (levels - 1)
        level = np.clip(np.round(centers / scale + np.round(-share * low / scale)), 0, levels - 1)
        spread = np.zeros(128)
        for one in np.unique(level):
            bins = (level == one) & (counts > 0)
            spread[bins] = counts[level == one].sum() / max(1, bins.sum())
        costs.append(entropy(counts, spread))
    scale, _ = mo.OBSERVERS["entropy"](rows, levels)
    chosen = float(scale) * (levels - 1) / (high - low)
    assert costs[int(np.abs(np.array(observers.SHARES) - chosen).argmin())] == pytest.approx(min(costs), rel=1e-3)


def test_stochastic_rounding_is_right_on_average():
    """0.3 of a step: up 3 times of 10; a weight on the grid stays."""
    weight = torch.full((1, 20000), 0.3)
    weight[0, 0] = 3.0
    values, lattice = quantize(weight, 3, rounding="stochastic")
    assert float(lattice.scale) == 1.0
    assert set(values[0, 1:].tolist()) == {0.0, 1.0}
    assert values[0, 1:].mean() == pytest.approx(0.3, abs=4 * (0.21 / 20000) ** 0.5)
    assert values[0, 0] == 3.0


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("observer", list(mo.OBSERVERS))
def test_constant_and_zero_tensors(bits, scheme, value, shape, observer):
    values, _ = quantize(torch.full(shape, value), bits, scheme, "channel", observer)
    assert torch.isfinite(values).all()
    if value or bits > 1 or scheme == "affine":
        torch.testing.assert_close(values, torch.full(shape, value))


def test_a_weight_that_is_not_finite_is_one_line():
    w, model = mo.workload("digits"), copy.deepcopy(mo.baseline("digits", "mlp"))
    with torch.no_grad():
        model.fc2.weight[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    with pytest.raises(mo.ModelOptError, match=r"3 of 2048 numbers of fc2.weight are not finite \(nan at"):
        mo.Quantize().apply(model, w)


@pytest.mark.parametrize("bits", [*range(1, 9), 16])
def test_model_lies_on_its_grid_and_error_shrinks(bits):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Quantize(bits=bits).apply(model, w)
    for name, layer in small.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            found = weight_grid.codes(layer)
            assert found is not None, name
            codes, lattice = found
            assert torch.equal(lattice.values(codes), layer.weight)
            assert len(layer.weight.unique()) <= lattice.levels * len(layer.weight)
            error = (layer.weight - model.get_submodule(name).weight).abs().amax()
            assert error <= lattice.scale.max() / (2 if bits > 1 else 1) * (1.001 if bits < 16 else 1.02)


def test_a_weight_changed_since_is_no_longer_on_its_grid():
    layer = nn.Linear(2, 2)
    values, lattice = quantize(layer.weight.detach(), 4)
    with torch.no_grad():
        layer.weight.copy_(values)
    weight_grid.attach(layer, lattice)
    assert weight_grid.codes(layer) is not None
    with torch.no_grad():
        layer.weight.add_(0.01)
    assert weight_grid.codes(layer) is None


def test_pruned_after_one_bit_keeps_a_code_for_zero():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    stages = mo.run((mo.Quantize(bits=1), mo.Prune(ratio=0.5, granularity="weight")), [model], w)
    codes, lattice = weight_grid.codes(stages[-1].model.fc1)
    assert (codes == lattice.levels).float().mean() == pytest.approx(0.5, abs=0.01)


def test_channels_cut_after_quantization_stay_on_their_grid():
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Prune(ratio=0.5).apply(mo.Quantize(bits=4).apply(model, w), w)
    for layer in small.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            assert weight_grid.codes(layer) is not None
            assert len(layer.weight_scale) == len(layer.weight)


def test_groups_go_when_inputs_are_cut_and_channels_keep_theirs():
    """Cutting inputs shifts the runs of a group: such a layer has floats again, the first one keeps its grid."""
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Prune(ratio=0.5, recovery="none").apply(mo.Quantize(bits=4, per="group", group=8).apply(model, w), w)
    assert weight_grid.codes(small.conv1) is not None
    assert weight_grid.points_of(small.fc1) is weight_grid.points_of(small.conv2) is None
    assert mopt.sizes(small).size_bytes > 0


@pytest.mark.parametrize(
    "given",
    [{"scheme": "codebook"}, {"per": "group", "group": 20}, {"per": "group", "scheme": "affine"}, {"bits": 16}],
    ids=str,
)
def test_files_give_the_points_back(given, tmp_path):
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    small = mo.Quantize(**{"bits": 3, **given}).apply(model, w)
    again = mo.load(mo.save(small, tmp_path / "small.mopt"))
    for name, layer in small.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            (q, on), (q2, on2) = weight_grid.codes(layer), weight_grid.codes(again.get_submodule(name))
            assert torch.equal(q, q2)
            assert (type(on), on.levels) == (type(on2), on2.levels)
            assert torch.equal(on.values(q), on2.values(q2))
            assert torch.equal(layer.weight, again.get_submodule(name).weight)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"group": 1, "per": "group"}, r"group=1 is not allowed; group must be a whole number ≥ 2 and ≤ 65536"),
        ({"bits": 12}, r"bits=12 is not allowed; bits must be a whole number ≥ 1 and ≤ 8, or 16"),
        ({"bits": 0}, r"Quantize: bits=0 is not allowed; bits must be a whole number ≥ 1 and ≤ 8"),
        ({"bits": 9}, r"bits=9 is not allowed"),
        ({"bits": 2.5}, r"bits=2.5 is not allowed"),
        ({"observer": "max"}, r"unknown observer 'max'.*choose from absmax"),
        ({"rounding": "up"}, r"unknown rounding 'up'; choose from adaround, gptq, nearest"),
        ({"per": "row"}, r"per=row is not allowed; per must be 'tensor', 'channel' or 'group'"),
    ],
)
def test_bad_input_is_one_line(given, text):
    with pytest.raises(mo.ModelOptError, match=text):
        mo.Quantize(**given)
