"""How many jobs work at once: a job takes a place before it computes and gives it back while it stands still.

A place is a locked file, so whoever dies gives it back. Jobs that find none wait, and are told of as queued.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from modelopt_core.errors import ModelOptError

FOLDER = "places"
OF_AN_OWNER = 2  # working at once; a third of the same owner waits


def in_all() -> int:
    """Jobs that work at once on this machine: one a core, and two where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, cores)


class Place:
    """A place among those that work, for one job; taken and given back by one thread."""

    def __init__(self, home: Path, owner: str) -> None:
        """home: where the job folders are; owner: the owner's hash."""
        self.folder = home / FOLDER
        self.wanted = [(f"{owner}-{{}}.lock", OF_AN_OWNER), ("all-{}.lock", in_all())]
        self.held: list[FileLock] = []

    def take(self) -> bool:
        """Take a place if one of the owner's and one of all are free, else nothing."""
        if self.held:
            return True
        for name, count in self.wanted:
            lock = self._first_free([self.folder / name.format(i) for i in range(count)])
            if lock is None:
                self.give_back()
                return False
            self.held.append(lock)
        return True

    def give_back(self) -> None:
        """Let the next one work."""
        while self.held:
            self.held.pop().release()

    def _first_free(self, paths: list[Path]) -> FileLock | None:
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for path in paths:
                lock = FileLock(path)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                return lock
        except OSError as error:
            raise ModelOptError(
                f"cannot lock a file in {str(self.folder)!r} ({error.strerror}); set MODELOPT_JOBS to a folder with "
                "write access"
            ) from error
        return None
