"""Codes of a small quantized weight, coded with a model that learns while it codes: slower, and shorter.

Every code is first "the usual one or not", then, bit by bit, which of the others. Each such bit is foretold from
several contexts (its row, its column, its neighbours), the forecasts are mixed by weights that learn too, and an
arithmetic coder writes it. There is no table. All arithmetic is in whole numbers, the same on every machine.

Source: Mahoney, Adaptive Weighing of Context Models for Lossless Data Compression, Florida Tech. CS-2005-16 (mixing,
and the tables of lpaq); Wiedemann et al., DeepCABAC, arXiv 1907.11900 (contexts for weights).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modelopt_core.files.coded import Coded
from modelopt_core.files.stream import Damaged, Reader, varint

ONE = 4096  # a probability of 1
KNOTS = (1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047)  # ONE / (1 + exp(8 − i / 2))
CURVE = (*KNOTS, *(ONE - k for k in reversed(KNOTS[:-1])))
TOP, MEMORY, LEARNING = 0xFF000000, 255, 6


def _squash(x: int) -> int:
    """ONE / (1 + exp(−x / 256)) by straight lines between the knots, from 1 to ONE − 1."""
    at, part = divmod(min(2046, max(-2047, x)) + 2048, 128)
    return min(ONE - 1, max(1, (CURVE[at] * (128 - part) + CURVE[at + 1] * part) // 128))


def _stretch() -> tuple[int, ...]:
    """The inverse of `_squash` for every probability."""
    table, x = [], -2047
    for p in range(ONE):
        while x < 2047 and _squash(x) < p:
            x += 1
        table.append(x)
    return tuple(table)


STRETCH = _stretch()
SHARE = tuple((1 << 17) // (2 * n + 3) for n in range(MEMORY + 1))  # 1 / (n + 1.5), in 65,536ths
Bit = Callable[[int, int], int]  # (probability of 1, the bit where it is known) -> the bit


class Mixture:
    """Forecasts of bits, each from several contexts; what was foretold is learned from at once."""

    def __init__(self, bit: Bit) -> None:
        self.bit = bit
        self.seen: dict[tuple[int, ...], list[int]] = {}  # context -> probability of 1 in 65,536ths, times seen
        self.weights: dict[int, list[int]] = {}  # by the first context's kind, in 65,536ths

    def __call__(self, contexts: list[tuple[int, ...]], known: int = 0) -> int:
        """The next bit: `known`, or what the coder reads."""
        slots = [self.seen.setdefault(context, [1 << 15, 0]) for context in contexts]
        weights = self.weights.setdefault(contexts[0][0], [(5 << 14) // len(contexts)] * len(contexts))
        stretched = [STRETCH[slot[0] >> 4] for slot in slots]
        p = _squash(sum(w * s for w, s in zip(weights, stretched, strict=True)) >> 16)
        bit = self.bit(p, known)
        error = ((bit << 12) - p) * LEARNING
        for i, (slot, s) in enumerate(zip(slots, stretched, strict=True)):
            weights[i] += (s * error + 0x8000) >> 16
            slot[0] += (((bit << 16) - bit - slot[0]) * SHARE[slot[1]]) >> 16
            slot[1] = min(MEMORY, slot[1] + 1)
        return bit


def encode(q: NDArray[np.int32], block: int) -> Coded:
    """q: codes (R, C); block: columns that belong together, such as a kernel's."""
    usual, most = int(np.bincount(q.reshape(-1)).argmax()), int(q.max())
    out, low, high = bytearray(), 0, 0xFFFFFFFF

    def write(p: int, bit: int) -> int:
        nonlocal low, high
        middle = low + ((high - low) >> 12) * p
        low, high = (low, middle) if bit else (middle + 1, high)
        while not (low ^ high) & TOP:
            out.append(high >> 24)
            low, high = low << 8 & 0xFFFFFFFF, (high << 8 & 0xFFFFFFFF) | 0xFF
        return bit

    _walk(q.copy(), usual, most, block, Mixture(write), known=True)
    size = next(k for k in range(1, 5) if _rounded_up(low, k) <= high)
    payload = (bytes(out) + _rounded_up(low, size).to_bytes(5, "big")[1 : 1 + size]).rstrip(b"\0")
    head = varint(usual) + varint(most) + varint(len(payload))
    return Coded(head + payload, len(payload), 0, 8.0 * len(payload), 0)


def decode(reader: Reader, rows: int, columns: int, block: int, alphabet: int) -> NDArray[np.int32]:
    """The codes (R, C), each below `alphabet`, that `encode` wrote at the reader's place."""
    usual, most = reader.varint(), reader.varint()
    if usual > most or most >= alphabet:
        raise Damaged(f"codes up to {most:,} of {alphabet:,}")
    reader.slowly(rows * columns)
    data = iter(reader.take(reader.varint()))
    low, high = 0, 0xFFFFFFFF
    place = int.from_bytes(bytes(next(data, 0) for _ in range(4)), "big")

    def read(p: int, _: int) -> int:
        nonlocal low, high, place
        middle = low + ((high - low) >> 12) * p
        bit = int(place <= middle)
        low, high = (low, middle) if bit else (middle + 1, high)
        while not (low ^ high) & TOP:
            low, high = low << 8 & 0xFFFFFFFF, (high << 8 & 0xFFFFFFFF) | 0xFF
            place = (place << 8 & 0xFFFFFFFF) | next(data, 0)
        return bit

    q = np.zeros((rows, columns), np.int32)
    _walk(q, usual, most, block, Mixture(read), known=False)
    if next(data, None) is not None:
        raise Damaged("coded symbols are left over")
    return q


def _walk(q: NDArray[np.int32], usual: int, most: int, block: int, mixture: Mixture, known: bool) -> None:
    """Every code in turn, row by row: what is known is written, what is not is read into q."""
    columns = q.shape[1]
    depth = max(0, (most - 1).bit_length()) if most else 0
    in_column, above = [0] * columns, [usual] * columns
    for r, codes in enumerate(q.tolist()):
        in_row, left, before = 0, usual, usual
        for c in range(columns):
            code, up = codes[c], above[c]
            row, column = min(3, 4 * in_row // (c + 1)), min(3, 4 * in_column[c] // (r + 1))
            near = (left != usual) + 2 * (up != usual) + 4 * (before != usual)
            contexts = [(0,), (1, near), (2, r), (3, c), (4, row, column), (5, c // block)]
            if mixture(contexts, int(code != usual)):
                rank = code - (code > usual)  # among the others
                node = 1
                for at in reversed(range(depth)):
                    kinds = [(6, node), (7, node, r), (8, node, left, up)]
                    node = 2 * node + mixture(kinds, rank >> at & 1)
                rank = node - (1 << depth)
                code = rank + (rank >= usual)
                if code > most:
                    raise Damaged(f"code {code:,} of {most + 1:,}")
                in_row, in_column[c] = in_row + 1, in_column[c] + 1
            else:
                code = usual
            codes[c] = above[c] = code
            before, left = left, code
        if not known:
            q[r] = codes


def _rounded_up(low: int, size: int) -> int:
    """The least number ≥ low whose bytes after the first `size` of four are zero."""
    unit = 1 << 8 * (4 - size)
    return -(-low // unit) * unit
