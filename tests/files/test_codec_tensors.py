"""Symbols at their entropy, tensors bit for bit: the two layers below the file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelopt_core.files import stream, symbols, tensors
from modelopt_core.models.weight_grid import Grid

SEED = 20


def test_steps_grow_by_a_fourteenth_and_reach_every_count() -> None:
    assert symbols.STEPS[:18].tolist() == [*range(1, 16), 16, 17, 18]
    assert symbols.STEPS[-1] > 2**26
    counts = np.array([1, 2, 15, 100, 12345, 2**26])
    nearest = symbols.STEPS[symbols._nearest_step(counts)]
    assert (np.abs(np.log(nearest / counts)) < np.log(15 / 14) / 2 + 0.01).all()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_entropy_is_scipys(counts: list[int]) -> None:
    if sum(counts):
        expected = sum(counts) * scipy.stats.entropy(counts, base=2)
        assert symbols.entropy_bits(np.array(counts)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 30_001])
@pytest.mark.parametrize("alphabet", [2, 3, 15, 16, 255, 256, 65_536])
@pytest.mark.parametrize("skew", [0.02, 1.0, 50.0])
def test_symbols_come_back_within_the_bars(n: int, alphabet: int, skew: float) -> None:
    generator = np.random.default_rng(SEED)
    probabilities = generator.dirichlet(np.full(alphabet, skew))
    given_symbols = generator.choice(alphabet, n, p=probabilities).astype(np.int32)
    code = symbols.encode(given_symbols)
    reader = stream.Reader(code.data)
    assert np.array_equal(symbols.decode(reader, n, alphabet), given_symbols)
    assert reader.left == 0
    # the bars, together: payload ≤ 1.01 × entropy + 8 bytes; tables ≤ 16 bytes and 2 per distinct symbol
    entropy = symbols.entropy_bits(np.bincount(given_symbols)) / 8
    assert len(code.data) <= 1.01 * entropy + 8 + 16 + 2 * len(np.unique(given_symbols))
    assert 0 <= code.payload_bytes <= len(code.data)


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.5, -2.5, math.inf, -math.inf, math.nan, 1e-45, 3e38]), min_size=0, max_size=700
    )
)
def test_any_floats_come_back_bit_for_bit(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    coded = tensors.encode(tensor)
    back, on = tensors.decode(stream.Reader(coded.data), tensor)
    assert back.numpy().tobytes() == tensor.numpy().tobytes()
    assert on is None
    assert len(coded.data) <= 1 + tensor.nbytes
    assert coded.entropy_bits <= 8 * len(coded.data)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3, dtype=torch.int64),
        torch.tensor(-0.0),
        torch.zeros(0),
        torch.arange(12).reshape(3, 4),
        torch.full((300,), math.nan),
        torch.tensor([2**63 - 1, -1]),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_odd_tensors(tensor: torch.Tensor) -> None:
    back, _ = tensors.decode(stream.Reader(tensors.encode(tensor).data), tensor)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert back.numpy().tobytes() == tensor.numpy().tobytes()


def test_rows_of_zeros_are_stored_as_gaps() -> None:
    tensor = torch.rand(40, 500, generator=torch.Generator().manual_seed(SEED)) + 1
    tensor[::2] = 0.0
    coded = tensors.encode(tensor)
    assert coded.data[0] == tensors.GAPS
    assert len(coded.data) < 20 * 500 * 4 + 200  # scattered, the mask alone would take 2,500 bytes
    back, _ = tensors.decode(stream.Reader(coded.data), tensor)
    assert torch.equal(back, tensor)


def test_how_few_symbols_are_written() -> None:
    """By hand: 40 different numbers below 256 take 40 bytes flat; a table alone would take 40 for the counts."""
    some = np.random.default_rng(SEED).permutation(256)[:40].astype(np.int32)
    code = symbols.encode(some)
    assert code.data[0] == symbols.FLAT
    assert 40 <= len(code.data) <= 40 + 8
    assert code.distinct == 40
    assert np.array_equal(symbols.decode(stream.Reader(code.data), 40, 256), some)


def test_fine_grids_are_written_in_planes() -> None:
    """16 bits, 20,000 draws of a bell: most numbers occur once. The high bytes are few, the low ones all alike."""
    bell = np.random.default_rng(SEED).normal(2**15, 300, 20_000).astype(np.int32)
    code = symbols.encode(bell)
    assert code.data[0] == symbols.PLANES
    assert len(code.data) < 20_000 * (8 + 3.5) / 8 + 600
    reader = stream.Reader(code.data)
    assert np.array_equal(symbols.decode(reader, len(bell), 2**16), bell)
    assert reader.left == 0
    last = int(bell.max())
    with pytest.raises(stream.Damaged, match=f"symbol {last:,} of {last:,}"):
        symbols.decode(stream.Reader(code.data), len(bell), last)


def test_a_pruned_grid_is_written_as_gaps() -> None:
    """Rows of zeros between rows of other codes: the gaps know them, the codes by themselves do not."""
    generator = torch.Generator().manual_seed(SEED)
    codes = torch.randint(0, 7, (60, 200), generator=generator, dtype=torch.int32)
    codes[torch.arange(60) % 6 != 0] = 3
    on = Grid(torch.tensor([0.5]), torch.tensor([3.0]), 7)
    coded = tensors.encode(on.values(codes), (codes, on))
    assert len(coded.data) < 10 * 200 * 3 / 8 + 250  # as plain codes they would take about 1,300
    back, points = tensors.decode(stream.Reader(coded.data), codes.float())
    assert torch.equal(back, on.values(codes))
    assert isinstance(points, Grid)
