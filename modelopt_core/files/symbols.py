"""Integers as bytes, at their empirical entropy: a table of how often each occurs, then an entropy coder's output.

The table holds which symbols occur and one byte per symbol for how often: an index into `STEPS`, integers that grow by
a fourteenth. That is at most 3.6 % off, and costs less than 0.1 % of the payload. The coder is asymmetric numeral
systems with this static model, 0.04 % above the model's entropy.

A few numbers on a fine grid hardly repeat, and a table would cost more than it saves. Where it is shorter they are
stored flat (all symbols equally likely, no table), or as two planes, low and high bytes, each coded as above.

Source: Duda, Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of
arithmetic coding, arXiv 1311.2540; Bamler, Understanding Entropy Coding With Asymmetric Numeral Systems,
arXiv 2201.01741 (constriction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import constriction
import numpy as np
from numpy.typing import NDArray

from modelopt_core.files.stream import Damaged, Reader, varint

Symbols = NDArray[np.int32]
WORD = np.dtype("<u4")  # what the coder reads and writes
FLAT, PLANES = range(2)  # first number of a code; a table begins with at least 2
PLANE = 256


def _steps() -> NDArray[np.int64]:
    """1, 2, … 15, then each a fourteenth more than the last; exact integers, the same on every machine."""
    steps = [1]
    while len(steps) < 256:
        steps.append(max(steps[-1] + 1, steps[-1] * 15 // 14))
    return np.array(steps)


STEPS = _steps()


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Σ −n_i log2(n_i / n) over symbols that occur n_i of n times: the least bits that any static model needs."""
    some = counts[counts > 0].astype(np.float64)
    return float((some * np.log2(some.sum() / some)).sum()) if len(some) > 1 else 0.0


@dataclass(frozen=True)
class Code:
    """data: table and payload; payload_bytes: of these, what the coder put out; entropy_bits: of the stored symbols.

    distinct: how many different symbols there are.
    """

    data: bytes
    payload_bytes: int = 0
    entropy_bits: float = 0.0
    distinct: int = 0


def encode(symbols: Symbols) -> Code:
    """symbols (n,) ≥ 0 -> the shortest of the ways to write them. The reader must know n."""
    if not len(symbols):
        return Code(b"")
    codes, base = [_tabled(symbols)], int(symbols.max()) + 1
    if base > 1 and len(symbols) * math.log2(base) < 8 * len(codes[0].data):
        codes.append(_flat(symbols, base, codes[0]))
    if base > PLANE:
        low, high = encode(symbols % PLANE), encode(symbols // PLANE)
        payload, entropy = low.payload_bytes + high.payload_bytes, low.entropy_bits + high.entropy_bits
        codes.append(Code(varint(PLANES) + low.data + high.data, payload, entropy, low.distinct + high.distinct))
    return min(codes, key=lambda code: len(code.data))


def decode(reader: Reader, n: int, alphabet: int) -> Symbols:
    """The n symbols, each below `alphabet`, that `encode` wrote at the reader's place."""
    if n == 0:
        return np.zeros(0, np.int32)
    head = reader.varint()
    if head == PLANES and alphabet > PLANE:
        low, high = decode(reader, n, PLANE), decode(reader, n, -(-alphabet // PLANE))
        if (symbols := low + PLANE * high).max() >= alphabet:
            raise Damaged(f"symbol {symbols.max():,} of {alphabet:,}")
        return symbols
    if head == FLAT:
        if not 2 <= (base := reader.varint()) <= alphabet:
            raise Damaged(f"{base:,} symbols of {alphabet:,}")
        return _decompress(reader, constriction.stream.model.Uniform(base), n)
    present = _read_present(reader, alphabet, head)
    marks = np.frombuffer(reader.take(len(present)), np.uint8)
    if len(present) == 1:
        return np.full(n, present[0], np.int32)
    return present[_decompress(reader, _model(marks), n)].astype(np.int32)


def _tabled(symbols: Symbols) -> Code:
    counts = np.bincount(symbols)
    present = np.flatnonzero(counts)
    marks = _nearest_step(counts[present])
    table = _present_bytes(present) + marks.tobytes()
    if len(present) == 1:
        return Code(table, distinct=1)
    rank = np.zeros(len(counts), np.int32)
    rank[present] = np.arange(len(present), dtype=np.int32)
    payload = _compress(rank[symbols], _model(marks))
    return Code(table + varint(len(payload)) + payload, len(payload), entropy_bits(counts), len(present))


def _flat(symbols: Symbols, base: int, tabled: Code) -> Code:
    payload = _compress(symbols, constriction.stream.model.Uniform(base))
    return replace(
        tabled, data=varint(FLAT) + varint(base) + varint(len(payload)) + payload, payload_bytes=len(payload)
    )


def _compress(symbols: Symbols, model: constriction.stream.model.Model) -> bytes:
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols, model)
    return bytes(coder.get_compressed().astype(WORD).tobytes().rstrip(b"\0"))  # the last word is never zero


def _decompress(reader: Reader, model: constriction.stream.model.Model, n: int) -> Symbols:
    payload = reader.take(reader.varint())
    words = np.frombuffer(payload + b"\0" * (-len(payload) % WORD.itemsize), WORD).astype(np.uint32)
    coder = constriction.stream.stack.AnsCoder(words)
    symbols: Symbols = coder.decode(model, n)
    if not coder.is_empty():
        raise Damaged("coded symbols are left over")
    return symbols


def _nearest_step(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(k,) counts ≥ 1 -> (k,) indices of the step with the smallest ratio to each."""
    above = np.searchsorted(STEPS, counts).clip(1, len(STEPS) - 1)
    low, high = STEPS[above - 1], STEPS[above]
    return np.where(counts.astype(np.float64) ** 2 <= low.astype(np.float64) * high, above - 1, above).astype(np.uint8)


def _model(marks: NDArray[np.uint8]) -> constriction.stream.model.Categorical:
    """The coder's model: probabilities proportional to the steps."""
    steps = STEPS[marks].astype(np.float64)
    return constriction.stream.model.Categorical(steps / STEPS[marks].sum(), perfect=False)


def _present_bytes(present: NDArray[np.int64]) -> bytes:
    """Which symbols occur: their number, then the shorter of the gaps between them and a map of one bit per symbol."""
    gaps = b"".join(varint(int(gap)) for gap in np.diff(present, prepend=-1) - 1)
    bits = np.zeros(present[-1] + 1, np.uint8)
    bits[present] = 1
    bitmap = varint(len(bits)) + np.packbits(bits).tobytes()
    return varint(2 * len(present)) + gaps if len(gaps) <= len(bitmap) else varint(2 * len(present) + 1) + bitmap


def _read_present(reader: Reader, alphabet: int, head: int) -> NDArray[np.int64]:
    """The sorted symbols (k,) that `_present_bytes` wrote after its first number, `head`."""
    size, mapped = divmod(head, 2)
    if not 1 <= size <= alphabet:
        raise Damaged(f"{size} symbols of {alphabet}")
    if mapped:
        length = min(reader.varint(), alphabet)
        bits = np.unpackbits(np.frombuffer(reader.take(-(-length // 8)), np.uint8), count=length)
        present = np.flatnonzero(bits)
    else:
        present = np.cumsum([reader.varint() + 1 for _ in range(size)]) - 1
    if len(present) != size or present[-1] >= alphabet:
        raise Damaged("a table of symbols contradicts itself")
    return present
