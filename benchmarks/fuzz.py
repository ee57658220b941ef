"""1,000 damaged `.mopt` files: each gives a model or the one error; none ends the process, hangs or fills the memory.

Bytes are changed, and so are fields of headers (kinds that begin with `header`): numbers made huge, lists made longer,
types exchanged, members put into each other.

    python -m benchmarks.fuzz              every kind of file, 1,000 mutants each
    python -m benchmarks.fuzz mopt-grid    one kind

Mutants are read in a child process. Half of them keep a checksum that fits, so that the damage gets past it.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import random
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import modelopt_core as mo
from benchmarks.machine import machine
from modelopt_core.files import header, mopt
from modelopt_core.files.stream import Reader, varint
from modelopt_core.models.spec import Spec
from modelopt_core.structure.build import build

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
    body = data[: -mopt.CHECKSUM_BYTES]
    return body + zlib.crc32(body).to_bytes(mopt.CHECKSUM_BYTES, "little")


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
            elif place > len(mopt.MAGIC):
                del mutant[place:]
        yield bytes(mutant) if i % 2 else repaired(bytes(mutant))


def field_mutants(data: bytes, n: int, seed: int = SEED) -> Iterator[bytes]:
    """n copies with one to three fields of the header changed; the tensors are as they were, the checksum fits."""
    draw = random.Random(seed)
    reader = Reader(data[len(mopt.MAGIC) + 1 : -mopt.CHECKSUM_BYTES])
    whole = json.loads(zlib.decompressobj(header.RAW_DEFLATE, header.WORDS).decompress(reader.take(reader.varint())))
    rest = reader.take(reader.left)
    for _ in range(n):
        fields = copy.deepcopy(whole)
        for _ in range(draw.choice([1, 1, 2, 3])):
            holder, at = draw.choice(list(_places(fields)))
            holder[at] = _hostile(holder[at], copy.deepcopy(whole), draw)
        yield headed(fields, rest)


def headed(fields: Mapping[str, Any], rest: bytes = b"") -> bytes:
    """A file with this header and these bytes after it."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, header.RAW_DEFLATE, 9, zlib.Z_DEFAULT_STRATEGY, header.WORDS)
    head = deflate.compress(json.dumps(fields).encode()) + deflate.flush()
    body = mopt.MAGIC + bytes([mopt.VERSION]) + varint(len(head)) + head + rest
    return repaired(body + bytes(mopt.CHECKSUM_BYTES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(what holds it, its key or index) of everything in a header but the note."""
    for at, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        if at != "n":
            yield value, at
            yield from _places(inner) if isinstance(inner, dict | list) else ()


def _hostile(value: Any, whole: Mapping[str, Any], draw: random.Random) -> Any:
    """Something else in the place of a header's value."""
    other = [
        0,
        -1,
        1.5,
        True,
        None,
        "",
        "int64",
        "float32",
        [],
        {},
        10**30,
        2**31,
        [4096, 4096, 64],
        {"conv1": 1},
        whole,
    ]
    if isinstance(value, int) and draw.random() < 0.7:
        return draw.choice([value * 2 ** draw.randrange(1, 26), value + 1, value - 1, 2 ** draw.randrange(40)])
    if isinstance(value, list) and draw.random() < 0.7:
        return draw.choice(
            [value * draw.choice([2, 8, 100]), [*value, 2 ** draw.randrange(26)], value[:-1], value[::-1]]
        )
    if isinstance(value, dict) and draw.random() < 0.7:
        return {f"{name}{draw.choice(['', '', '1'])}": inner for name, inner in value.items() if draw.random() < 0.8}
    return draw.choice(other)


def damaged(name: str, data: bytes, n: int) -> Iterator[bytes]:
    """n mutants of a file of this kind."""
    return (field_mutants if name.startswith("header") else mutants)(data, n)


def files() -> dict[str, Callable[[], bytes]]:
    """Kinds of file that are damaged, by name."""

    def joined(step: mo.Combine, *names: str) -> bytes:
        w = mo.workload("digits")
        return mopt.encode(step.apply([mo.baseline("digits", name) for name in names], w))

    def built(*spec: Any) -> bytes:
        return mopt.encode(build(Spec(*spec)))

    def made(*steps: mo.Transform, adaptive: bool = False) -> bytes:
        w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
        for step in steps:
            model = step.apply(model, w)
        return mopt.encode(model, {"recipe": [step.name for step in steps]}, adaptive=adaptive)

    pruned = mo.Prune(ratio=0.9, granularity="weight")
    return {
        "mopt-raw": made,
        "mopt-sparse": lambda: made(pruned),
        "mopt-grid": lambda: made(mo.Quantize(bits=4)),
        "mopt-gaps": lambda: made(pruned, mo.Quantize(bits=3, per="tensor", observer="mse")),
        "mopt-adaptive": lambda: made(pruned, mo.Quantize(bits=3, per="tensor", observer="mse"), adaptive=True),
        "mopt-fine": lambda: made(mo.Quantize(bits=16, scheme="affine", per="group")),
        "mopt-codebook": lambda: made(mo.Quantize(bits=3, scheme="codebook")),
        "header-cnn": lambda: made(mo.Prune(ratio=0.5), mo.Quantize(bits=4, activations=8)),
        "header-mlp": lambda: built("mlp", (("sizes", (64, 32, 10)),), (1, 8, 8), "float32", (("fc1", 8),)),
        "header-textcnn": lambda: built("textcnn", (("vocabulary", 50),), (12,), "int64", (("conv1", 9),)),
        "header-denoiser": lambda: built("denoiser", (("width", 4),), (1, 8, 8), "float32", (("conv1", 2),)),
        "header-ensemble": lambda: joined(mo.Ensemble(), "cnn", "mlp"),
        "header-exits": lambda: joined(mo.Cascade(stages="exits"), "cnn"),
        "header-stack": lambda: joined(mo.Fuse(of="outputs", strengths=(0.1,)), "cnn", "mlp"),
        "header-pipeline": lambda: joined(mo.Pipeline(), "groups", "expert-1", "expert-2", "expert-3"),
    }


def read_all(name: str, n: int, results: multiprocessing.Queue[Outcome]) -> None:
    """In the child: read one whole file, then the mutants of it."""
    data = files()[name]()
    mopt.decode(data)
    idle, loaded, refused, slowest = _peak_mb(), 0, 0, 0.0
    for mutant in damaged(name, data, n):
        start = time.perf_counter()
        try:
            mopt.decode(mutant)
            loaded += 1
        except mopt.FileError:
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
