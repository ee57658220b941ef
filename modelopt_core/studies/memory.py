"""Giving memory back: what was kept is made again when somebody asks for it."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

MOST_BYTES = 224 * 2**20  # all stores of a process together
ARENAS = 2  # of malloc: one a core of a laptop would do; by itself glibc makes eight a core, each with its own holes
LARGE = 8 * 2**20  # bytes of a block that malloc takes from the system and gives back at once; by itself it learns to
# keep blocks of up to 32 MB in its heaps, and the small ones that come to lie between them hold them there
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # glibc's numbers for the options


def release() -> None:
    """Forget every kept result, model, session and workload, and hand the memory back to the system.

    Nothing that somebody still holds changes; it is only not found again. Takes some 0.1 s.
    """
    from modelopt_core.machine import cache  # all of these: not before PyTorch is wanted
    from modelopt_core.runtime import inference
    from modelopt_core.studies.background import SWEEPER
    from modelopt_core.training import zoo
    from modelopt_core.workloads.workload import forget

    SWEEPER.forget()
    for store in cache.stores():
        store.clear()
    forget()
    zoo.forget()
    gc.unfreeze()  # whoever froze what there was then, froze garbage of today with it
    gc.collect()
    inference.shrink()
    trim()


def trim() -> None:
    """Hand back what was freed and is still the process's, where the C library keeps such (Linux with glibc)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def few_arenas() -> None:
    """Let all threads share a few heaps, before the first of them makes its own, and keep large blocks out of them.

    On Linux with glibc.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(M_ARENA_MAX, ARENAS)
            libc.mallopt(M_MMAP_THRESHOLD, LARGE)
