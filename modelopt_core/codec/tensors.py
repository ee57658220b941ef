"""One tensor as bytes, in the smallest of four ways; every way gives the same bits back.

raw       the elements as they are
constant  one element, repeated
sparse    which elements are zero (one coded bit each, or the coded gaps between the others), then the others raw
grid      the integers of a quantized weight, coded, with the scale and zero point of each channel raw
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelopt_core.codec.stream import Damaged, Reader, varint
from modelopt_core.codec.symbols import decode as decode_symbols
from modelopt_core.codec.symbols import encode as encode_symbols
from modelopt_core.codec.symbols import entropy_bits as entropy_of
from modelopt_core.grid import Grid

RAW, CONSTANT, BITS, GAPS, GRID = range(5)
MODES = ("raw", "constant", "sparse", "sparse", "grid")
LONG_GAP = 255  # so many zeros, and no other element after them
MAX_LEVELS = 2**16
FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Coded:
    """A tensor's bytes, how they were made, and the bound in bits: entropy of the symbols and raw elements."""

    data: bytes
    mode: str
    entropy_bits: float


def encode(tensor: Tensor, grid_codes: tuple[Tensor, Grid] | None = None) -> Coded:
    """Any tensor of 1-, 2-, 4- or 8-byte elements; grid_codes, from `grid.codes`, when it lies on a grid."""
    elements = tensor.detach().cpu().contiguous().numpy().reshape(-1)
    if grid_codes is not None and elements.dtype == FLOAT and len(elements):
        coded = _encode_grid(elements, *grid_codes)
        if coded is not None:
            return coded
    raw = elements.astype(elements.dtype.newbyteorder("<"), copy=False).tobytes()
    one = raw[: elements.itemsize]
    if len(elements) > 1 and raw == one * len(elements):
        return _coded(CONSTANT, one, 8 * len(one))
    plain = _coded(RAW, raw, 8 * len(raw))
    if elements.dtype == FLOAT and len(elements):
        sparse = _encode_sparse(elements)
        if sparse is not None and len(sparse.data) < len(plain.data):
            return sparse
    return plain


def decode(reader: Reader, like: Tensor) -> tuple[Tensor, Grid | None]:
    """The tensor of the shape and type of `like` that `encode` wrote, and the grid that it lies on."""
    kind = np.dtype(str(like.dtype).removeprefix("torch."))
    n, size = like.numel(), kind.itemsize
    mode = reader.take(1)[0]
    if mode == GRID and kind == FLOAT:
        return _decode_grid(reader, like)
    if mode == RAW:
        elements = np.frombuffer(reader.take(n * size), kind.newbyteorder("<"))
    elif mode == CONSTANT:
        elements = np.full(n, np.frombuffer(reader.take(size), kind.newbyteorder("<"))[0])
    elif mode in (BITS, GAPS) and kind == FLOAT:
        elements = _decode_sparse(reader, n, mode)
    else:
        raise Damaged(f"tensor mode {mode} for {kind}")
    return torch.from_numpy(elements.astype(kind)).reshape(like.shape), None


def _coded(mode: int, data: bytes, entropy_bits: float) -> Coded:
    return Coded(bytes([mode]) + data, MODES[mode], entropy_bits)


def _encode_sparse(elements: NDArray[np.float32]) -> Coded | None:
    """Zeros apart from the rest; −0.0 and NaN are of the rest. None where there are too few zeros to pay."""
    there = elements.view(np.uint32) != 0
    place = np.flatnonzero(there)
    zeros = len(elements) - len(place)
    if 8 * FLOAT.itemsize * zeros <= entropy_of(np.array([zeros, len(place)])):
        return None
    gaps = np.diff(place, prepend=-1) - 1
    long = gaps // LONG_GAP  # each a symbol of its own
    runs = np.full(len(gaps) + long.sum(), LONG_GAP, np.int32)
    runs[np.cumsum(long + 1) - 1] = gaps % LONG_GAP
    values = elements[place].astype(FLOAT).tobytes()
    by_gaps = entropy_of(np.bincount(runs)) + 8 * len(np.unique(runs)) if len(runs) else 0.0
    if by_gaps < entropy_of(np.array([zeros, len(place)])):
        code, bits = encode_symbols(runs)
        return _coded(GAPS, varint(len(runs)) + code + values, bits + 8 * len(values))
    code, bits = encode_symbols(there.astype(np.int32))
    return _coded(BITS, code + values, bits + 8 * len(values))


def _decode_sparse(reader: Reader, n: int, mode: int) -> NDArray[np.float32]:
    if mode == BITS:
        place = np.flatnonzero(decode_symbols(reader, n, 2))
    else:
        count = reader.varint()
        if count > n:
            raise Damaged(f"{count:,} gaps in {n:,} elements")
        runs = decode_symbols(reader, count, LONG_GAP + 1)
        steps = np.where(runs == LONG_GAP, LONG_GAP, runs + 1).astype(np.int64)
        place = (np.cumsum(steps) - 1)[runs != LONG_GAP]
        if len(place) and place[-1] >= n:
            raise Damaged("gaps reach past the end of a tensor")
    elements = np.zeros(n, np.float32)
    elements[place] = np.frombuffer(reader.take(len(place) * FLOAT.itemsize), FLOAT)
    return elements


def _encode_grid(elements: NDArray[np.float32], codes: Tensor, on: Grid) -> Coded | None:
    """Codes below `levels`; `levels` for a zero off the grid, `levels + 1` for −0.0. None if bits would change."""
    scale, zero_point = (t.detach().cpu().float() for t in (on.scale, on.zero_point))
    exact = torch.equal(scale, on.scale.cpu()) and torch.equal(zero_point, on.zero_point.cpu())
    q = codes.cpu().numpy().astype(np.int32)
    bits = elements.view(np.uint32)
    q.reshape(-1)[bits == 1 << 31] = on.levels + 1
    restored = _grid_values(q, Grid(scale, zero_point, on.levels)).numpy().reshape(-1)
    if not exact or not 2 <= on.levels <= MAX_LEVELS or (restored.view(np.uint32) != bits).any():
        return None
    same = bool((zero_point == zero_point[0]).all())
    zeros = zero_point[:1] if same else zero_point
    raw = scale.numpy().astype(FLOAT).tobytes() + zeros.numpy().astype(FLOAT).tobytes()
    code, entropy_bits = encode_symbols(q.reshape(-1))
    head = varint(on.levels) + bytes([(len(scale) > 1) | same << 1])
    return _coded(GRID, head + raw + code, entropy_bits + 8 * len(raw))


def _decode_grid(reader: Reader, like: Tensor) -> tuple[Tensor, Grid]:
    levels, flags = reader.varint(), reader.take(1)[0]
    if not 2 <= levels <= MAX_LEVELS or flags > 3 or like.dim() < 1:
        raise Damaged(f"a grid of {levels} levels")
    rows = len(like) if flags & 1 else 1
    scale = np.frombuffer(reader.take(rows * FLOAT.itemsize), FLOAT)
    zeros = np.frombuffer(reader.take((1 if flags & 2 else rows) * FLOAT.itemsize), FLOAT)
    on = Grid(torch.tensor(scale), torch.tensor(zeros).expand(rows).clone(), levels)
    return _grid_values(decode_symbols(reader, like.numel(), levels + 2).reshape(like.shape), on), on


def _grid_values(q: NDArray[np.int32], on: Grid) -> Tensor:
    """float32 values of codes (R, …), among them the two that stand for zeros off the grid."""
    codes = torch.from_numpy(q)
    values = on.values(codes)
    values[codes == on.levels] = 0.0
    values[codes == on.levels + 1] = -0.0
    return values
