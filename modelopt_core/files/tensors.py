"""One tensor as bytes, in the smallest of six ways; every way gives the same bits back.

raw       the elements as they are
constant  one element, repeated
mask      which elements are zero, one coded bit each, then the others raw
gaps      the coded gaps between the elements that are not zero, then these raw
grid      the whole numbers of a quantized weight, coded, and its scales and zero points raw; see lattice.py
codebook  the whole numbers of a quantized weight, coded, and the values that they stand for raw
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelopt_core.files.coded import FLOAT, Coded
from modelopt_core.files.lattice import decode_book, decode_grid, encode_points
from modelopt_core.files.nonzeros import decode_gaps, decode_mask, encode_gaps, encode_mask
from modelopt_core.files.stream import Damaged, Reader
from modelopt_core.models.weight_grid import Codebook, Points

RAW, CONSTANT, MASK, GAPS, GRID, BOOK = range(6)
MODES = ("raw", "constant", "mask", "gaps", "grid", "codebook")


def encode(tensor: Tensor, grid_codes: tuple[Tensor, Points] | None = None, slow: bool = False) -> Coded:
    """Any tensor of 1-, 2-, 4- or 8-byte elements; grid_codes, from `grid.codes`, when it lies on a grid.

    slow: codes may be coded adaptively, see adaptive.py.
    """
    elements = tensor.detach().cpu().contiguous().numpy().reshape(-1)
    if grid_codes is not None and elements.dtype == FLOAT and len(elements):
        coded = encode_points(elements, *grid_codes, slow)
        if coded is not None:
            return _record(BOOK if isinstance(grid_codes[1], Codebook) else GRID, coded)
    raw = elements.astype(elements.dtype.newbyteorder("<"), copy=False).tobytes()
    one = raw[: elements.itemsize]
    if len(elements) > 1 and raw == one * len(elements):
        return _record(CONSTANT, Coded.of(floats=one))
    tried = [_record(RAW, Coded.of(floats=raw))]
    if elements.dtype == FLOAT and len(elements):
        there = elements.view(np.uint32) != 0  # −0.0 and NaN are elements like others
        others = elements[there].astype(FLOAT).tobytes()
        if len(others) < len(raw):
            tried += [_record(MASK, Coded.of(encode_mask(there), others))]
            tried += [_record(GAPS, Coded.of(encode_gaps(there), others))]
    return min(tried, key=lambda coded: len(coded.data))


def decode(reader: Reader, like: Tensor) -> tuple[Tensor, Points | None]:
    """The tensor of the shape and type of `like` that `encode` wrote, and the grid that it lies on."""
    kind = np.dtype(str(like.dtype).removeprefix("torch."))
    n, size = like.numel(), kind.itemsize
    mode = reader.take(1)[0]
    if mode == GRID and kind == FLOAT:
        return decode_grid(reader, like)
    if mode == BOOK and kind == FLOAT:
        return decode_book(reader, like)
    if mode == RAW:
        elements = np.frombuffer(reader.take(n * size), kind.newbyteorder("<"))
    elif mode == CONSTANT:
        elements = np.full(n, np.frombuffer(reader.take(size), kind.newbyteorder("<"))[0])
    elif mode == MASK and kind == FLOAT:
        elements = _scattered(reader, n, decode_mask(reader, n))
    elif mode == GAPS and kind == FLOAT:
        elements = _scattered(reader, n, decode_gaps(reader, n))
    else:
        raise Damaged(f"tensor mode {mode} for {kind}")
    return torch.from_numpy(elements.astype(kind)).reshape(like.shape), None


def _record(mode: int, coded: Coded) -> Coded:
    return coded.after(bytes([mode]), MODES[mode])


def _scattered(reader: Reader, n: int, place: NDArray[np.int64]) -> NDArray[np.float32]:
    elements = np.zeros(n, np.float32)
    elements[place] = np.frombuffer(reader.take(len(place) * FLOAT.itemsize), FLOAT)
    return elements
