"""1,000 damaged `.mopt` files: each gives a model or the one error; none ends the process, hangs or fills the memory.

    python -m benchmarks.fuzz              every kind of file, 1,000 mutants each
    python -m benchmarks.fuzz mopt-grid    one kind

Mutants are read in a child process. Half of them keep a checksum that fits, so that the damage gets past it.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import modelopt_core as mo
from benchmarks.machine import machine
from modelopt_core import codec

MUTANTS, SEED = 1000, 20
LIMIT_S, LIMIT_MB = 2.0, 256
WHOLE = 600  # seconds for all mutants of one kind; whoever is not back by then hangs


@dataclass(frozen=True)
class Outcome:
    """What became of the mutants: loaded + refused = all of them. growth_mb: of the child's memory."""

    loaded: int
    refused: int
    slowest_s: float
    growth_mb: float


def repaired(data: bytes) -> bytes:
    """The data with a checksum that fits."""
    body = data[: -codec.CHECKSUM_BYTES]
    return body + zlib.crc32(body).to_bytes(codec.CHECKSUM_BYTES, "little")


def mutants(data: bytes, n: int, seed: int = SEED) -> Iterator[bytes]:
    """n damaged copies: bytes changed, inserted, deleted, the end cut off; half of the changes near the beginning."""
    draw = random.Random(seed)
    for i in range(n):
        mutant = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            place = draw.randrange(len(mutant)) if draw.random() < 0.5 else draw.randrange(min(200, len(mutant)))
            kind = draw.randrange(7)
            if kind < 3:
                mutant[place] = draw.randrange(256)
            elif kind < 5:
                mutant[place:place] = draw.randbytes(draw.randrange(1, 5))
            elif kind < 6:
                del mutant[place : place + draw.randrange(1, 5)]
            elif place > len(codec.MAGIC):
                del mutant[place:]
        yield bytes(mutant) if i % 2 else repaired(bytes(mutant))


def files() -> dict[str, Callable[[], bytes]]:
    """Kinds of file that are damaged, by name."""

    def made(*steps: mo.Transform, adaptive: bool = False) -> bytes:
        w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
        for step in steps:
            model = step.apply(model, w)
        return codec.encode(model, {"recipe": [step.name for step in steps]}, adaptive=adaptive)

    pruned = mo.Prune(ratio=0.9, granularity="weight")
    return {
        "mopt-raw": made,
        "mopt-sparse": lambda: made(pruned),
        "mopt-grid": lambda: made(mo.Quantize(bits=4)),
        "mopt-gaps": lambda: made(pruned, mo.Quantize(bits=3, per="tensor", observer="mse")),
        "mopt-adaptive": lambda: made(pruned, mo.Quantize(bits=3, per="tensor", observer="mse"), adaptive=True),
        "mopt-fine": lambda: made(mo.Quantize(bits=16, scheme="affine", per="group")),
        "mopt-codebook": lambda: made(mo.Quantize(bits=3, scheme="codebook")),
    }


def read_all(name: str, n: int, results: multiprocessing.Queue[Outcome]) -> None:
    """In the child: read one whole file, then the mutants of it."""
    data = files()[name]()
    codec.decode(data)
    idle, loaded, refused, slowest = _peak_mb(), 0, 0, 0.0
    for mutant in mutants(data, n):
        start = time.perf_counter()
        try:
            codec.decode(mutant)
            loaded += 1
        except codec.FileError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - start)
    results.put(Outcome(loaded, refused, slowest, _peak_mb() - idle))


def outcome(name: str, n: int = MUTANTS) -> Outcome | None:
    """What became of n mutants, read in a child process; None where it ended or did not come back."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Outcome] = context.Queue()
    child = context.Process(target=read_all, args=(name, n, results))
    child.start()
    child.join(WHOLE)
    if child.exitcode != 0:
        child.kill()
        return None
    return results.get(timeout=LIMIT_S)


def _peak_mb() -> float:
    """The most memory that this process has had; Linux counts kilobytes, macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(names: list[str]) -> None:
    """Print a row per kind of file; exit status 1 where a bar is missed."""
    print(f"{machine()}\n\n| file | mutants | loaded | refused | slowest, s | growth, MB | bars |")
    print("|---|--:|--:|--:|--:|--:|---|")
    good = True
    for name in names or files():
        found = outcome(name)
        held = found is not None and found.slowest_s <= LIMIT_S and found.growth_mb <= LIMIT_MB
        good &= held
        cells = "ended or hung | | | |" if found is None else (
            f"{found.loaded} | {found.refused} | {found.slowest_s:.3f} | {found.growth_mb:.0f} |"
        )  # fmt: skip
        print(f"| {name} | {MUTANTS} | {cells} {'held' if held else 'missed'} |", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main(sys.argv[1:])
