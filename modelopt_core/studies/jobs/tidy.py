"""Old job folders go by themselves: first those past an age, then the oldest until the rest is small enough."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from modelopt_core.errors import ModelOptError
from modelopt_core.studies.jobs.job import EVENTS, Job, alive

DAY_S = 86_400.0
AGE_S = 30 * DAY_S
BYTES = 2 * 2**30


def tidy(folders: Iterable[Path], *, age_s: float = AGE_S, most_bytes: int = BYTES) -> list[str]:
    """Remove the folders of ended jobs that nobody wrote to for `age_s` seconds, then the oldest until all together
    are at most `most_bytes`. Returns the ids that went. A job that has a process, or has just called one, stays.
    """
    now, gone = time.time(), []
    oldest_first = sorted((_last_written_s(path), _size_bytes(path), path) for path in folders)
    total = sum(size for _, size, _ in oldest_first)
    for written_s, size, path in oldest_first:
        if now - written_s <= age_s and total <= most_bytes:
            break
        if _over(path):
            shutil.rmtree(path, ignore_errors=True)
            total -= size
            gone.append(path.name)
    return gone


def _over(path: Path) -> bool:
    """Has the job ended? What is no job, or half of one, counts a day after anybody touched it."""
    if alive(path) or path.is_symlink():
        return False
    try:
        return Job(path).ended
    except ModelOptError:
        return time.time() - _last_written_s(path) > DAY_S


def _last_written_s(path: Path) -> float:
    try:
        return max(each.stat().st_mtime for each in (path, path / EVENTS) if each.exists())
    except (OSError, ValueError):
        return time.time()


def _size_bytes(path: Path) -> int:
    try:
        return sum(each.lstat().st_size for each in path.iterdir())
    except OSError:
        return 0
