"""A quantized weight as bytes: its points (scales and zero points, or a codebook) raw, and its coded whole numbers.

Codes are below `levels`; `levels` stands for a zero that is not one of the points, `levels + 1` for −0.0. Where most
codes are the same, as after pruning, the gaps between the others are tried too, and the smaller is kept. On export the
adaptive coder may be tried as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelopt_core.files.adaptive import decode as decode_adaptive
from modelopt_core.files.adaptive import encode as encode_adaptive
from modelopt_core.files.coded import FLOAT, Coded
from modelopt_core.files.nonzeros import decode_gaps, encode_gaps
from modelopt_core.files.stream import Damaged, Reader, varint
from modelopt_core.files.symbols import decode as decode_symbols
from modelopt_core.files.symbols import encode as encode_symbols
from modelopt_core.models.weight_grid import Codebook, Grid, Points

MAX_LEVELS = 2**16
PICTURE = 16
PER_ROW, ONE_ZERO, GROUPED, CENTRED, GAPS, ADAPTIVE = (1 << i for i in range(6))  # flags; the last two of codebooks too

EARNED = 0.99  # of the bytes otherwise: the adaptive coder is slow to read, so it is kept where it saves over 1 %


def encode_points(elements: NDArray[np.float32], codes: Tensor, on: Points, slow: bool = False) -> Coded | None:
    """elements: (n,), the weight; codes: of its shape; slow: try the adaptive coder. None where bits would change."""
    on, bits = _as_stored(on), elements.view(np.uint32)
    q = codes.cpu().numpy().astype(np.int32)
    q.reshape(-1)[bits == 1 << 31] = on.levels + 1
    if not 1 <= on.levels <= MAX_LEVELS or (_values(q, on).numpy().reshape(-1).view(np.uint32) != bits).any():
        return None
    flags, extra, numbers = _book(on) if isinstance(on, Codebook) else _grid(on)
    coded, by_gaps = Coded.of(encode_symbols(q.reshape(-1))), _encode_gaps(q.reshape(-1))
    if by_gaps is not None and len(by_gaps.data) < len(coded.data):
        flags, coded = flags | GAPS, by_gaps
    if slow and len((by_model := encode_adaptive(_matrix(q), _block(q))).data) < EARNED * len(coded.data):
        flags, coded = flags & ~GAPS | ADAPTIVE, by_model
    floats = b"".join(n.numpy().astype(FLOAT).tobytes() for n in numbers)
    return (Coded.of(floats=floats) + coded).after(varint(on.levels) + bytes([flags]) + extra)


def decode_grid(reader: Reader, like: Tensor) -> tuple[Tensor, Grid]:
    """The weight of the shape of `like` that `encode_points` wrote for a grid, and the grid."""
    levels, flags = reader.varint(), reader.take(1)[0]
    if not 2 <= levels <= MAX_LEVELS or flags >= 2 * ADAPTIVE or like.dim() < 1:
        raise Damaged(f"a grid of {levels} levels")
    group = reader.varint() if flags & GROUPED else 0
    if flags & GROUPED and group < 1:
        raise Damaged("a group of no weights")
    runs = -(-like[0].numel() // group) if group else 1
    shape = (len(like), runs) if group else (len(like) if flags & PER_ROW else 1,)
    scale = _floats(reader, math.prod(shape))
    if flags & CENTRED:
        zeros = torch.tensor([_middle(levels)])
    else:
        zeros = _floats(reader, 1 if flags & ONE_ZERO else math.prod(shape))
    on = Grid(scale.reshape(shape), zeros.expand(math.prod(shape)).reshape(shape).clone(), levels, group)
    return _values(_codes(reader, like, levels, flags), on), on


def decode_book(reader: Reader, like: Tensor) -> tuple[Tensor, Codebook]:
    """The weight of the shape of `like` that `encode_points` wrote for a codebook, and the codebook."""
    levels, flags = reader.varint(), reader.take(1)[0]
    if not 1 <= levels <= MAX_LEVELS or flags not in (0, GAPS, ADAPTIVE):
        raise Damaged(f"a codebook of {levels} values")
    on = Codebook(_floats(reader, levels))
    return _values(_codes(reader, like, levels, flags), on), on


def _as_stored(on: Points) -> Points:
    """The points as they will be read."""
    if isinstance(on, Codebook):
        return Codebook(on.points.detach().cpu().float())
    return Grid(on.scale.detach().cpu().float(), on.zero_point.detach().cpu().float(), on.levels, on.group)


def _grid(on: Grid) -> tuple[int, bytes, tuple[Tensor, ...]]:
    """Flags, what else the table says, and the numbers."""
    zeros = on.zero_point.reshape(-1)
    flags = PER_ROW * (len(on.scale) > 1) | GROUPED * bool(on.group)
    extra = varint(on.group) if on.group else b""
    if bool((zeros == _middle(on.levels)).all()):
        return flags | CENTRED, extra, (on.scale,)
    if bool((zeros == zeros[0]).all()):
        return flags | ONE_ZERO, extra, (on.scale, zeros[:1])
    return flags, extra, (on.scale, zeros)


def _book(on: Codebook) -> tuple[int, bytes, tuple[Tensor, ...]]:
    return 0, b"", (on.points,)


def _middle(levels: int) -> float:
    """The zero point of a symmetric grid, which is not stored."""
    return (levels - 1) / 2


def _floats(reader: Reader, n: int) -> Tensor:
    return torch.tensor(np.frombuffer(reader.take(n * FLOAT.itemsize), FLOAT))


def _codes(reader: Reader, like: Tensor, levels: int, flags: int) -> NDArray[np.int32]:
    if flags & ADAPTIVE:
        rows, columns = _matrix(like).shape
        return decode_adaptive(reader, rows, columns, _block(like), levels + 2).reshape(like.shape)
    read = _decode_gaps if flags & GAPS else decode_symbols
    return read(reader, like.numel(), levels + 2).reshape(like.shape)


def _matrix(weight: Any) -> Any:
    """(R, …) -> (R, C)."""
    return weight.reshape(len(weight), -1)


def _block(weight: Any) -> int:
    """Columns that belong together: a kernel's, or as many as a small picture has."""
    return math.prod(weight.shape[2:]) if weight.ndim > 2 else PICTURE


def _encode_gaps(q: NDArray[np.int32]) -> Coded | None:
    """q: (n,) codes -> the most frequent one, the gaps between the others, and these. None where no code prevails."""
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


def _values(q: NDArray[np.int32], on: Points) -> Tensor:
    """float32 values of codes (R, …), among them the two that stand for zeros off the points."""
    codes = torch.from_numpy(q)
    values = on.values(codes.clamp(max=on.levels - 1))
    values[codes == on.levels] = 0.0
    values[codes == on.levels + 1] = -0.0
    return values
