"""The coder that learns while it codes: by hand, against the entropy, and with hostile numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import modelopt_core as mo
from modelopt_core.files import adaptive, lattice, mopt, stream
from modelopt_core.files.coded import Coded
from modelopt_core.files.symbols import Code

SEED = 20


def back(data: bytes, shape: tuple[int, int], block: int, alphabet: int) -> np.ndarray:  # type: ignore[type-arg]
    reader = stream.Reader(data)
    found = adaptive.decode(reader, *shape, block, alphabet)
    assert reader.left == 0
    return found


def test_the_curve_is_the_logistic_one() -> None:
    exact = [adaptive.ONE / (1 + math.exp(-x / 256)) for x in range(-2047, 2048)]
    assert (
        max(abs(adaptive._squash(x) - e) for x, e in zip(range(-2047, 2048), exact, strict=True)) < 16
    )  # straight lines
    assert all(abs(adaptive._squash(adaptive.STRETCH[p]) - p) <= 4 for p in range(1, adaptive.ONE))


def test_one_code_by_hand() -> None:
    """Head: usual 5, most 5, payload; one bit that nothing foretells is at most a byte with the coder's end."""
    data = adaptive.encode(np.array([[5]], np.int32), 1).data
    assert data[:2] == b"\5\5"
    assert len(data) <= 4
    assert back(data, (1, 1), 1, 6).tolist() == [[5]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 13)])
@pytest.mark.parametrize("alphabet", [1, 2, 3, 7, 17, 300])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_codes_come_back(shape: tuple[int, int], alphabet: int, share: float) -> None:
    draw = np.random.default_rng(SEED)
    q = np.where(draw.random(shape) < share, alphabet // 2, draw.integers(0, alphabet, shape)).astype(np.int32)
    assert np.array_equal(back(adaptive.encode(q, 4).data, shape, 4, alphabet), q)


def test_codes_without_order_cost_their_entropy() -> None:
    draw = np.random.default_rng(SEED)
    q = np.where(draw.random((60, 150)) < 0.8, 3, draw.integers(0, 7, (60, 150))).astype(np.int32)
    shares = np.bincount(q.reshape(-1)) / q.size
    entropy = -q.size * (shares * np.log2(shares)).sum() / 8
    assert len(adaptive.encode(q, 25).data) < 1.04 * entropy + 16


def test_rows_that_differ_cost_less_than_the_entropy_of_all() -> None:
    draw = np.random.default_rng(SEED)
    q = np.where(
        draw.random((60, 150)) < np.where(np.arange(60) % 4, 0.98, 0.3)[:, None], 3, draw.integers(0, 7, (60, 150))
    )
    shares = np.bincount(q.reshape(-1)) / q.size
    assert len(adaptive.encode(q.astype(np.int32), 25).data) < -0.9 * q.size * (shares * np.log2(shares)).sum() / 8


def test_hostile_numbers() -> None:
    data = adaptive.encode(np.array([[0, 1, 4]], np.int32), 1).data
    with pytest.raises(stream.Damaged, match="codes up to 4 of 3"):
        back(data, (1, 3), 1, 3)
    with pytest.raises(stream.Damaged, match="more than 65,536 elements are coded the slow way"):
        back(data, (300, 300), 1, 5)
    with pytest.raises(stream.Damaged, match="coded symbols are left over"):
        back(data[:2] + bytes([data[2] + 9]) + data[3:] + b"123456789", (1, 3), 1, 5)


@pytest.mark.parametrize(("share", "kept"), [(0.98, True), (0.995, False)])
def test_it_is_kept_only_where_it_saves_over_one_per_cent(
    share: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = mo.workload("digits")
    model = mo.Quantize(bits=4).apply(mo.baseline("digits", "mlp"), w)
    plain = mopt.encode(model)
    static = lattice.encode_symbols
    sizes: list[int] = []
    monkeypatch.setattr(lattice, "encode_symbols", lambda q: sizes.append(len((c := static(q)).data)) or c)
    monkeypatch.setattr(lattice, "_encode_gaps", lambda q: None)
    monkeypatch.setattr(lattice, "encode_adaptive", lambda q, block: Coded.of(Code(bytes(int(share * sizes[-1])))))
    assert (len(mopt.encode(model, adaptive=True)) < len(plain)) == kept
