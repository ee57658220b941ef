"""One tensor as bytes, in the smallest of five ways; every way gives the same bits back.

raw       the elements as they are
constant  one element, repeated
sparse    which elements are zero (one coded bit each, or the coded gaps between the others), then the others raw
grid      the integers of a quantized weight, coded, with the scale and zero point of each channel or group raw
codebook  the integers of a quantized weight, coded, with the values that they stand for raw
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelopt_core.codec.stream import Damaged, Reader, varint
from modelopt_core.codec.symbols import decode as decode_symbols
from modelopt_core.codec.symbols import encode as encode_symbols
from modelopt_core.codec.symbols import entropy_bits as entropy_of
from modelopt_core.grid import Codebook, Grid, Points

RAW, CONSTANT, BITS, GAPS, GRID, BOOK = range(6)
MODES = ("raw", "constant", "sparse", "sparse", "grid", "codebook")
PER_ROW, ONE_ZERO, GROUPED = 1, 2, 4  # flags of a grid
LONG_GAP = 255  # so many zeros, and no other element after them
MAX_LEVELS = 2**16
FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Coded:
    """A tensor's bytes, how they were made, and the bound in bits: entropy of the symbols and raw elements."""

    data: bytes
    mode: str
    entropy_bits: float


def encode(tensor: Tensor, grid_codes: tuple[Tensor, Points] | None = None) -> Coded:
    """Any tensor of 1-, 2-, 4- or 8-byte elements; grid_codes, from `grid.codes`, when it lies on a grid."""
    elements = tensor.detach().cpu().contiguous().numpy().reshape(-1)
    if grid_codes is not None and elements.dtype == FLOAT and len(elements):
        codes, on = grid_codes
        coded = _encode_book(elements, codes, on) if isinstance(on, Codebook) else _encode_grid(elements, codes, on)
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


def decode(reader: Reader, like: Tensor) -> tuple[Tensor, Points | None]:
    """The tensor of the shape and type of `like` that `encode` wrote, and the grid that it lies on."""
    kind = np.dtype(str(like.dtype).removeprefix("torch."))
    n, size = like.numel(), kind.itemsize
    mode = reader.take(1)[0]
    if mode == GRID and kind == FLOAT:
        return _decode_grid(reader, like)
    if mode == BOOK and kind == FLOAT:
        return _decode_book(reader, like)
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
    q = _all_codes(elements, codes, on.levels)
    if not exact or not _restores(q, Grid(scale, zero_point, on.levels, on.group), elements):
        return None
    same = bool((zero_point == zero_point.view(-1)[0]).all())
    zeros = zero_point.view(-1)[:1] if same else zero_point
    raw = scale.numpy().astype(FLOAT).tobytes() + zeros.numpy().astype(FLOAT).tobytes()
    code, entropy_bits = encode_symbols(q.reshape(-1))
    flags = PER_ROW * (len(scale) > 1) | ONE_ZERO * same | GROUPED * bool(on.group)
    head = varint(on.levels) + bytes([flags]) + (varint(on.group) if on.group else b"")
    return _coded(GRID, head + raw + code, entropy_bits + 8 * len(raw))


def _decode_grid(reader: Reader, like: Tensor) -> tuple[Tensor, Grid]:
    levels, flags = reader.varint(), reader.take(1)[0]
    if not 2 <= levels <= MAX_LEVELS or flags >= 2 * GROUPED or like.dim() < 1:
        raise Damaged(f"a grid of {levels} levels")
    group = reader.varint() if flags & GROUPED else 0
    if flags & GROUPED and group < 1:
        raise Damaged("a group of no weights")
    runs = -(-like[0].numel() // group) if group else 1
    shape = (len(like), runs) if group else (len(like) if flags & PER_ROW else 1,)
    scale = np.frombuffer(reader.take(math.prod(shape) * FLOAT.itemsize), FLOAT)
    zeros = np.frombuffer(reader.take((1 if flags & ONE_ZERO else math.prod(shape)) * FLOAT.itemsize), FLOAT)
    spread = torch.tensor(zeros).expand(math.prod(shape)).reshape(shape).clone()
    on = Grid(torch.tensor(scale).reshape(shape), spread, levels, group)
    return _values(decode_symbols(reader, like.numel(), levels + 2).reshape(like.shape), on), on


def _encode_book(elements: NDArray[np.float32], codes: Tensor, on: Codebook) -> Coded | None:
    """Codes as for a grid, and the points as they are. None if bits would change."""
    points = on.points.detach().cpu()
    q = _all_codes(elements, codes, on.levels)
    if points.dtype != torch.float32 or not _restores(q, Codebook(points), elements):
        return None
    raw = points.numpy().astype(FLOAT).tobytes()
    code, entropy_bits = encode_symbols(q.reshape(-1))
    return _coded(BOOK, varint(on.levels) + raw + code, entropy_bits + 8 * len(raw))


def _decode_book(reader: Reader, like: Tensor) -> tuple[Tensor, Codebook]:
    levels = reader.varint()
    if not 1 <= levels <= MAX_LEVELS:
        raise Damaged(f"a codebook of {levels} values")
    on = Codebook(torch.tensor(np.frombuffer(reader.take(levels * FLOAT.itemsize), FLOAT)))
    return _values(decode_symbols(reader, like.numel(), levels + 2).reshape(like.shape), on), on


def _all_codes(elements: NDArray[np.float32], codes: Tensor, levels: int) -> NDArray[np.int32]:
    """The codes (R, …) with one of its own for −0.0."""
    q = codes.cpu().numpy().astype(np.int32)
    q.reshape(-1)[elements.view(np.uint32) == 1 << 31] = levels + 1
    return q


def _restores(q: NDArray[np.int32], on: Points, elements: NDArray[np.float32]) -> bool:
    """Do the codes give every bit back?"""
    known = 1 <= on.levels <= MAX_LEVELS
    return known and bool((_values(q, on).numpy().reshape(-1).view(np.uint32) == elements.view(np.uint32)).all())


def _values(q: NDArray[np.int32], on: Points) -> Tensor:
    """float32 values of codes (R, …), among them the two that stand for zeros off the points."""
    codes = torch.from_numpy(q)
    values = on.values(codes.clamp(max=on.levels - 1))
    values[codes == on.levels] = 0.0
    values[codes == on.levels + 1] = -0.0
    return values
