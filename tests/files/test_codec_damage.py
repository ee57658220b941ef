"""Damaged, truncated and hostile files: a model or the one error, soon."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fuzz import damaged, files, repaired
from modelopt_core.files import header, mopt, stream
from modelopt_core.structure.build import build
from tests.files.test_mopt import on_grid
from tests.runtime.test_onnx_export import SPECS


def test_every_truncation_is_refused() -> None:
    data = mopt.encode(on_grid(build(SPECS[0]), 15))
    for end in range(len(data)):
        for cut in (data[:end], repaired(data[:end])):
            with pytest.raises(mopt.FileError, match=r"is not a whole \.mopt file"):
                mopt.decode(cut)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: b"PK" + d[2:], "it does not begin with MOPT and a version from 1 to 2"),
        (lambda d: d[:4] + b"\3" + d[5:], "it does not begin with MOPT and a version from 1 to 2"),
        (lambda d: d[:60] + bytes([d[60] ^ 1]) + d[61:], "its checksum is wrong"),
        (lambda d: repaired(d[:-4] + b"\0" + d[-4:]), "1 bytes are left over"),
    ],
)
def test_what_is_wrong_is_said(change: Callable[[bytes], bytes], reason: str) -> None:
    data = mopt.encode(build(SPECS[0]))
    with pytest.raises(mopt.FileError, match=reason):
        mopt.decode(change(data))


MLP = b'{"a":"mlp","b":{"sizes":[64,7,10]},"i":[1,8,8]}'


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MLP.replace(b"mlp", b"mlx"), "unknown architecture 'mlx'"),
        (MLP.replace(b"7,10]", b"9e9]"), "sizes=.* must be whole numbers"),
        (MLP.replace(b"64,7", b"6000,10000"), "60,1[0-9,]* parameters, allowed are 4,[0-9,]*"),
        (MLP[:-1], "Expecting ',' delimiter"),
        (b'{"a":"mlp","n":{"x":"' + b" " * 50_000_000 + b'"}}', "its header has more than 1,048,576 bytes"),
    ],
    ids=["architecture", "arguments", "large", "json", "bomb"],
)
def test_hostile_headers_are_refused_at_once(version: int, text: bytes, reason: str) -> None:
    deflate = zlib.compressobj(9) if version == 1 else zlib.compressobj(wbits=header.RAW_DEFLATE, zdict=header.WORDS)
    head = deflate.compress(text) + deflate.flush()
    start = time.perf_counter()
    with pytest.raises(mopt.FileError, match=reason):
        mopt.decode(repaired(mopt.MAGIC + bytes([version]) + stream.varint(len(head)) + head + b"1234"))
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", files())
def test_mutants_give_a_model_or_the_one_error(name: str) -> None:
    """Bytes changed, put in or taken out, half under a checksum that fits; or fields of the header: 50 of each kind."""
    loaded, slowest = 0, 0.0
    for mutant in damaged(name, files()[name](), 50):
        start = time.perf_counter()
        with contextlib.suppress(mopt.FileError):
            mopt.decode(mutant)
            loaded += 1
        slowest = max(slowest, time.perf_counter() - start)
    assert loaded < 40
    assert slowest < 2


@pytest.mark.parametrize(
    ("path", "reason"), [("none.mopt", "No such file"), (".", "Is a directory"), ("nul\0", "null byte|embedded null")]
)
def test_files_that_cannot_be_read(path: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(mopt.FileError, match=rf"cannot read .*({reason})"):
        mopt.load(tmp_path / path)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.mopt"
    with path.open("wb") as file:
        file.truncate(mopt.MAX_FILE_BYTES + 1)
    with pytest.raises(mopt.FileError, match=r"has 52,428,801 bytes; a \.mopt file has at most 52,428,800"):
        mopt.load(path)
    with path.open("wb") as file:
        file.truncate(mopt.MAX_FILE_BYTES)
    with pytest.raises(mopt.FileError, match="does not begin with MOPT"):
        mopt.load(path)
