"""Damaged, truncated and hostile files: a model or the one error, soon."""

from __future__ import annotations

import contextlib
import json
import random
import time
import zlib
from pathlib import Path

import pytest

from modelopt_core import codec
from modelopt_core.codec import stream
from modelopt_core.models import build
from modelopt_core.spec import Spec
from tests.test_codec import on_grid, sparse
from tests.test_export import SPECS

SEED = 20


def repaired(data: bytes) -> bytes:
    """The data with a checksum that fits."""
    body = data[: -codec.CHECKSUM_BYTES]
    return body + zlib.crc32(body).to_bytes(codec.CHECKSUM_BYTES, "little")


def test_every_truncation_is_refused() -> None:
    data = codec.encode(on_grid(build(SPECS[0]), 15))
    for end in range(len(data)):
        for cut in (data[:end], repaired(data[:end])):
            with pytest.raises(codec.FileError, match=r"is not a whole \.mopt file"):
                codec.decode(cut)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: b"PK" + d[2:], "it does not begin with MOPT and version 1"),
        (lambda d: d[:60] + bytes([d[60] ^ 1]) + d[61:], "its checksum is wrong"),
        (lambda d: repaired(d[:-4] + b"\0" + d[-4:]), "1 bytes are left over"),
        (lambda d: repaired(d.replace(b'"mlp"', b'"mlx"')), "unknown architecture 'mlx'"),
        (lambda d: repaired(d.replace(b"[64,7,10]", b"[64,9e9]]")), "not a whole"),
    ],
)
def test_what_is_wrong_is_said(change: object, reason: str) -> None:
    data = codec.encode(build(SPECS[0]))
    with pytest.raises(codec.FileError, match=reason):
        codec.decode(change(data))  # type: ignore[operator]


def test_an_inflated_header_is_refused_at_once() -> None:
    bomb = zlib.compress(json.dumps({"a": "mlp", "n": {"x": " " * 50_000_000}}).encode(), 9)
    start = time.perf_counter()
    with pytest.raises(codec.FileError, match="its header has more than 1,048,576 bytes"):
        codec.decode(repaired(codec.MAGIC + stream.varint(len(bomb)) + bomb + b"1234"))
    assert time.perf_counter() - start < 2


def test_a_small_file_cannot_ask_for_a_large_model() -> None:
    header = b'{"a":"mlp","b":{"sizes":[6000,10000]},"i":[6000]}'
    start = time.perf_counter()
    with pytest.raises(codec.FileError, match="60,010,000 parameters, allowed are 16,777,216"):
        codec.decode(repaired(codec.MAGIC + stream.varint(len(header)) + header + 2 * b"\1\0\0\0\0" + b"1234"))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("make", [lambda m: on_grid(m, 15), lambda m: sparse(m, 0.9)], ids=["grid", "sparse"])
@pytest.mark.parametrize("spec", SPECS[:2], ids=lambda spec: spec.architecture)
def test_mutants_give_a_model_or_the_one_error(spec: Spec, make: object) -> None:
    """Flips, insertions and deletions under a checksum that fits: 100 in each of four files."""
    data = codec.encode(make(build(spec)))  # type: ignore[operator]
    draw, accepted, slowest = random.Random(SEED), 0, 0.0
    for _ in range(100):
        mutant = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            place = draw.randrange(len(mutant)) if draw.random() < 0.5 else draw.randrange(min(200, len(mutant)))
            kind = draw.randrange(3)
            if kind == 0:
                mutant[place] = draw.randrange(256)
            elif kind == 1:
                mutant[place:place] = draw.randbytes(draw.randrange(1, 5))
            else:
                del mutant[place : place + draw.randrange(1, 5)]
        start = time.perf_counter()
        with contextlib.suppress(codec.FileError):
            codec.decode(repaired(bytes(mutant)))
            accepted += 1
        slowest = max(slowest, time.perf_counter() - start)
    assert accepted < 80
    assert slowest < 2


@pytest.mark.parametrize(
    ("path", "reason"), [("none.mopt", "No such file"), (".", "Is a directory"), ("nul\0", "null byte|embedded null")]
)
def test_files_that_cannot_be_read(path: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(codec.FileError, match=rf"cannot read .*({reason})"):
        codec.load(tmp_path / path)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.mopt"
    with path.open("wb") as file:
        file.truncate(codec.MAX_FILE_BYTES + 1)
    with pytest.raises(codec.FileError, match=r"has 52,428,801 bytes; a \.mopt file has at most 52,428,800"):
        codec.load(path)
    with path.open("wb") as file:
        file.truncate(codec.MAX_FILE_BYTES)
    with pytest.raises(codec.FileError, match="does not begin with MOPT"):
        codec.load(path)
