"""Where the elements of a sparse tensor are that are not zero: a mask, or the gaps between them.

A mask is one coded bit per element. A gap is the number of zeros before an element; LONG_GAP of them and no element
after is a symbol too. Gaps are shorter where zeros come in runs, such as the inputs that no pruned unit reads.

Source: Han et al., Deep Compression, arXiv 1510.00149, sec. 2 (relative indices).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from modelopt_core.files.stream import Damaged, Reader, varint
from modelopt_core.files.symbols import Code, decode, encode

LONG_GAP = 255


def encode_mask(there: NDArray[np.bool_]) -> Code:
    """there: (n,), True where an element is."""
    return encode(there.astype(np.int32))


def decode_mask(reader: Reader, n: int) -> NDArray[np.int64]:
    """The places (m,) of the elements, in order."""
    return np.flatnonzero(decode(reader, n, 2))


def encode_gaps(there: NDArray[np.bool_]) -> Code:
    """there: (n,), True where an element is."""
    gaps = np.diff(np.flatnonzero(there), prepend=-1) - 1
    long = gaps // LONG_GAP
    runs = np.full(len(gaps) + long.sum(), LONG_GAP, np.int32)
    runs[np.cumsum(long + 1) - 1] = gaps % LONG_GAP
    code = encode(runs)
    return replace(code, data=varint(len(runs)) + code.data)


def decode_gaps(reader: Reader, n: int) -> NDArray[np.int64]:
    """The places (m,) of the elements, in order."""
    count = reader.varint()
    if count > n:
        raise Damaged(f"{count:,} gaps in {n:,} elements")
    runs = decode(reader, count, LONG_GAP + 1)
    steps = np.where(runs == LONG_GAP, LONG_GAP, runs + 1).astype(np.int64)
    place = (np.cumsum(steps) - 1)[runs != LONG_GAP]
    if len(place) and place[-1] >= n:
        raise Damaged("gaps reach past the end of a tensor")
    return place
