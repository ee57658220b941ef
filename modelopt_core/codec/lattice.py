"""A quantized weight as bytes: levels, flags, the grid's scales and zero points raw, then its coded whole numbers.

Codes are below `levels`; `levels` stands for a zero that is not on the grid, `levels + 1` for −0.0. Where most codes
are the same, as after pruning, the gaps between the others are tried beside the plain codes, and the smaller is kept.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelopt_core.codec.coded import FLOAT, Coded
from modelopt_core.codec.places import decode_gaps, encode_gaps
from modelopt_core.codec.stream import Damaged, Reader, varint
from modelopt_core.codec.symbols import decode as decode_symbols
from modelopt_core.codec.symbols import encode as encode_symbols
from modelopt_core.grid import Grid

MAX_LEVELS = 2**16  # 16 bits
PER_ROW, ONE_ZERO, GROUPED, CENTRED, GAPS = (1 << i for i in range(5))  # flags


def encode_grid(elements: NDArray[np.float32], codes: Tensor, on: Grid) -> Coded | None:
    """elements: (n,), the weight; codes: of its shape. None where its bits would not come back."""
    scale, zero_point = (t.detach().cpu().float() for t in (on.scale, on.zero_point))
    exact = torch.equal(scale, on.scale.cpu()) and torch.equal(zero_point, on.zero_point.cpu())
    q = codes.cpu().numpy().astype(np.int32)
    bits = elements.view(np.uint32)
    q.reshape(-1)[bits == 1 << 31] = on.levels + 1
    restored = _values(q, Grid(scale, zero_point, on.levels)).numpy().reshape(-1)
    if not exact or not 2 <= on.levels <= MAX_LEVELS or (restored.view(np.uint32) != bits).any():
        return None
    flags, floats = PER_ROW * (len(scale) > 1), scale.numpy().astype(FLOAT).tobytes()
    if bool((zero_point == _middle(on.levels)).all()):
        flags |= CENTRED
    elif bool((zero_point == zero_point[0]).all()):
        flags, floats = flags | ONE_ZERO, floats + zero_point[:1].numpy().astype(FLOAT).tobytes()
    else:
        floats += zero_point.numpy().astype(FLOAT).tobytes()
    coded, by_gaps = Coded.of(encode_symbols(q.reshape(-1))), _encode_gaps(q.reshape(-1))
    if by_gaps is not None and len(by_gaps.data) < len(coded.data):
        flags, coded = flags | GAPS, by_gaps
    return (Coded.of(floats=floats) + coded).after(varint(on.levels) + bytes([flags]))


def decode_grid(reader: Reader, like: Tensor) -> tuple[Tensor, Grid]:
    """The weight of the shape of `like` that `encode` wrote, and its grid."""
    levels, flags = reader.varint(), reader.take(1)[0]
    if not 2 <= levels <= MAX_LEVELS or flags >= 2 * GAPS or like.dim() < 1:
        raise Damaged(f"a grid of {levels} levels")
    rows = len(like) if flags & PER_ROW else 1
    scale = np.frombuffer(reader.take(rows * FLOAT.itemsize), FLOAT)
    if flags & CENTRED:
        zeros = np.array([_middle(levels)], FLOAT)
    else:
        zeros = np.frombuffer(reader.take((1 if flags & ONE_ZERO else rows) * FLOAT.itemsize), FLOAT)
    on = Grid(torch.tensor(scale), torch.tensor(zeros).expand(rows).clone(), levels)
    read = _decode_gaps if flags & GAPS else decode_symbols
    return _values(read(reader, like.numel(), levels + 2).reshape(like.shape), on), on


def _middle(levels: int) -> float:
    """The zero point of a symmetric grid."""
    return (levels - 1) / 2


def _encode_gaps(q: NDArray[np.int32]) -> Coded | None:
    """q: (n,) codes -> the most frequent code, the gaps between all others, and these. None where it is in few"""
    counts = np.bincount(q)
    usual = int(counts.argmax())
    if 2 * counts[usual] < len(q):
        return None
    there = q != usual
    return (Coded.of(encode_gaps(there)) + Coded.of(encode_symbols(q[there]))).after(varint(usual))


def _decode_gaps(reader: Reader, n: int, alphabet: int) -> NDArray[np.int32]:
    """The codes (n,) that `_encode_gaps` wrote."""
    usual = reader.varint()
    if usual >= alphabet:
        raise Damaged(f"code {usual:,} of {alphabet:,}")
    q, place = np.full(n, usual, np.int32), decode_gaps(reader, n)
    q[place] = decode_symbols(reader, len(place), alphabet)
    return q


def _values(q: NDArray[np.int32], on: Grid) -> Tensor:
    """float32 values of codes (R, …), among them the two that stand for zeros off the grid."""
    codes = torch.from_numpy(q)
    values = on.values(codes)
    values[codes == on.levels] = 0.0
    values[codes == on.levels + 1] = -0.0
    return values
