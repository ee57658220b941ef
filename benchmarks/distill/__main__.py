"""Distillation: the paper's experiment on MNIST, and `kl` against a plain loop.

    python -m benchmarks.distill teacher      784-1200-1200-10 with dropout and 2-pixel jitter; kept in .cache
    python -m benchmarks.distill tune         learning rates of both students, chosen on val, the same budget for both
    python -m benchmarks.distill 0            students of seed 0, alone and with soft targets; then 1, 2, 3, 4
    python -m benchmarks.distill width 30 0   error against temperature for 30 units a layer, seed 0; then 300, 800
    python -m benchmarks.distill long 0       the students of seed 0 again, with three times the epochs
    python -m benchmarks.distill small 0      300-100 with and without the teacher, seed 0
    python -m benchmarks.distill loop         on digits: `kl` against a loop written from the paper
    python -m benchmarks.distill              the tables, from what was measured

Every call adds to results/distill.json and leaves what is there, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from benchmarks.distill import mnist
from benchmarks.distill.loop import loop
from benchmarks.distill.rows import read
from benchmarks.distill.tables import tables
from benchmarks.machine import machine


def main(words: list[str]) -> None:
    """One piece of work, or the tables."""
    torch.set_num_threads(1)
    works: dict[str, Callable[[], object]] = {
        "teacher": mnist.teacher, "tune": mnist.tune, "loop": loop,
    }  # fmt: skip
    match words:
        case []:
            print(f"{machine()}\n", *tables(read()), sep="\n")
        case [name] if name in works:
            works[name]()
        case [seed] if seed.isdigit():
            mnist.one_seed(int(seed))
        case ["width", units, seed] if units.isdigit() and seed.isdigit():
            mnist.width(int(units), int(seed))
        case ["long", seed] if seed.isdigit():
            mnist.long(int(seed))
        case ["small", seed] if seed.isdigit():
            mnist.small(int(seed))
        case _:
            print(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
