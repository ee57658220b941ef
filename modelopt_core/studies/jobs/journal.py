"""A file of JSON lines that only grows: one process appends, any number read on from where they were.

A line counts once its newline is there, so a reader never meets half a record, and a writer that died in the middle of
one costs that line alone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelopt_core.errors import ModelOptError

MAX_BYTES = 64 * 2**20  # of a whole journal; a day of training writes less

Record = dict[str, Any]


class JournalError(ModelOptError):
    """The file cannot be read or written, or is no journal."""


def append(path: Path, record: Mapping[str, object]) -> None:
    """Add one record. A last line without its newline is closed first, so that it spoils no other."""
    data = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    try:
        size_bytes(path)
        with path.open("a+b", buffering=0) as file:  # one write call: two writers' lines don't mix
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                data = b"\n" + data
            if file.write(data) != len(data):
                raise OSError("no room left on the disk")
    except OSError as error:
        raise JournalError(
            f"cannot write {str(path)!r} ({error.strerror or error}); choose a folder with room and write access"
        ) from error


class Tail:
    """What was appended since the last `read`; costs one stat call while nothing was."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def read(self) -> list[Record]:
        """The new whole records; lines that are not JSON objects are passed over. No file yet: none."""
        try:
            size = size_bytes(self.path)
            if size <= self.offset:
                return []
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(size - self.offset)
        except OSError as error:
            raise JournalError(f"cannot read {str(self.path)!r} ({error.strerror or error}); delete it") from error
        whole = data.rfind(b"\n") + 1
        self.offset += whole
        return [record for line in data[:whole].splitlines() if (record := _parsed(line)) is not None]


def size_bytes(path: Path) -> int:
    """Bytes of a plain file, 0 where there is none. A pipe, a link or a file past MAX_BYTES is refused unopened."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(f"{str(path)!r} is not a plain file; delete it")
    if found.st_size > MAX_BYTES:
        raise JournalError(f"{str(path)!r} has {found.st_size:,} bytes; at most {MAX_BYTES:,} are read; delete it")
    return found.st_size


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
