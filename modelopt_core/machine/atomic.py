"""Writing a file so that its reader meets the old one or the new one, never half of either.

A writer that is killed leaves its part file behind. The next one in that folder sweeps it, and leaves alone the part
of a writer that lives: that one holds a lock on it, which goes with its process however that ends.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from modelopt_core.errors import ModelOptError

try:
    import fcntl
except ImportError:  # Windows, which lets nobody remove a file that is open
    fcntl = None  # type: ignore[assignment]

PART = re.compile(r"\..+\.\d+-\d+\.part", re.DOTALL)
# A part may be a link or a pipe that somebody else put there: neither followed nor waited for.
OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def check(path: str | Path) -> None:
    """ModelOptError where `write` would fail for want of a folder, of access or of a good name. Nothing stays."""
    part = _part(Path(path))
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        part.touch()
        part.unlink(missing_ok=True)  # another process may have swept it
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error


def write(path: str | Path, data: bytes) -> Path:
    """Write `data` beside `path`, flush it to the disk, then rename. A failure leaves no file behind and says why."""
    path = Path(path)
    part = _part(path)
    try:
        sweep(path.parent)
        try:
            with _held(part) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                if fcntl:  # under the lock: no sweeper takes the part before it has its name
                    part.replace(path)
            if not fcntl:
                part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _refusal(path, error) from error
    return path


def sweep(folder: Path) -> list[str]:
    """Remove the part files in a folder whose writer is dead; returns their names. What cannot be removed stays."""
    gone = []
    with suppress(OSError, ValueError):
        for part in [each for each in folder.iterdir() if PART.fullmatch(each.name)]:
            with suppress(OSError):
                _remove(part)
                gone.append(part.name)
    return gone


def _held(part: Path) -> BinaryIO:
    """The part file, open and locked. A sweeper may have taken it between the two: then another one."""
    while True:
        file = part.open("wb")
        if not fcntl:
            return file
        with suppress(OSError):  # a disk without locks, on which nobody sweeps either
            fcntl.flock(file, fcntl.LOCK_EX)
        if _same(part, file.fileno()):
            return file
        file.close()


def _remove(part: Path) -> None:
    """OSError where the writer lives: it holds the lock, or, without locks, the file."""
    if not fcntl:
        part.unlink()
        return
    number = os.open(part, OPEN)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (stat.S_ISREG(os.fstat(number).st_mode) and _same(part, number)):
            raise FileNotFoundError(part)
        part.unlink()
    finally:
        os.close(number)


def _same(part: Path, number: int) -> bool:
    """Is the open file still the one of that name?"""
    try:
        return os.path.samestat(part.stat(follow_symlinks=False), os.fstat(number))
    except FileNotFoundError:
        return False


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")


def _refusal(path: str | Path, error: Exception) -> ModelOptError:
    reason = getattr(error, "strerror", None) or error
    return ModelOptError(f"cannot write {str(path)!r} ({reason}); choose a folder with room and write access")
