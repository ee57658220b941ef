"""What a .mopt file costs beyond its entropy, on every shipped model at every width; and LeNet-5 in 11 kB and less.

    python -m benchmarks.size          the table of all models and widths, then what results/size.json knows of LeNet-5
    python -m benchmarks.size lenet5   measure LeNet-5 (see lenet.py)

Bars, per tensor: what is coded ≤ 1.01 × the entropy of the stored symbols + 8 bytes, tables ≤ 16 bytes and 2 per
distinct symbol; numbers that are not coded as they are. A tensor coded flat has no table, and may spend on what is
coded what a table would have cost. The header, with recipe and score in it, ≤ 512 bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import nn

import modelopt_core as mo
from benchmarks import lenet
from benchmarks.machine import machine
from modelopt_core.files import mopt
from modelopt_core.steps.quantize.quantize import BITS
from modelopt_core.training.zoo import zoo_index

HEADER_BYTES, TENSOR_BYTES, SYMBOL_BYTES, PAYLOAD_BYTES, PAYLOAD = 512, 16, 2, 8, 1.01
SCORE = {"metric": "accuracy", "value": 0.987654, "low": 0.98, "high": 0.99, "n": 10000, "how": "simulated"}
SPARSE = 0.9
PARTS = ("codes", "scales", "float weights", "header and tables")


def broken(model: nn.Module, data: bytes) -> list[str]:
    """The bars that the model's file does not meet, a line each. data: the file, with recipe and score in it."""
    sizes, lines = mopt.sizes(model), []
    for row in sizes.rows:
        payload = PAYLOAD * (row.entropy_bytes - row.floats_bytes) + PAYLOAD_BYTES
        tables = TENSOR_BYTES + SYMBOL_BYTES * row.symbols
        if row.table_bytes > tables or row.codes_bytes + row.table_bytes > payload + tables:
            lines.append(f"{row}: payload ≤ {payload:.0f}, tables ≤ {tables}")
    header = len(data) - sum(row.size_bytes for row in sizes.rows)
    return [*lines, *([f"header of {header} bytes"] if header > HEADER_BYTES else [])]


def quantized(name: str, bits: int, per: str, ratio: float = 0.0) -> tuple[nn.Module, Mapping[str, object]]:
    """A shipped model on grids, pruned before where asked for, and the note for its file."""
    steps: list[mo.Step] = [mo.Quantize(bits=bits, per=per)]
    if ratio:
        steps.insert(0, mo.Prune(ratio=ratio, granularity="weight", recovery="none"))
    w, model = mo.workload("digits"), mo.baseline(*name.split("/"))  # neither step looks at data
    for step in steps:
        assert isinstance(step, mo.Transform)
        model = step.apply(model, w)
    recipe = [{"step": step.name, **step.model_dump(mode="json")} for step in steps]
    return model, {"recipe": recipe, "score": SCORE}


def sweep() -> Iterator[str]:
    """Rows: every shipped model at every width, dense and pruned."""
    for name, bits, ratio in product(zoo_index(), BITS, (0.0, SPARSE)):
        model, note = quantized(name, bits, "tensor", ratio)
        data, sizes = mopt.encode(model, note), mopt.sizes(model)
        cells = [f"{part:,}" for part in sizes.parts.values()]
        over = sum(row.codes_bytes for row in sizes.rows) / sum(r.entropy_bytes - r.floats_bytes for r in sizes.rows)
        held = "; ".join(broken(model, data)) or "held"
        pruned = f"{ratio:.0%}" if ratio else ""
        yield f"| {name} | {bits} | {pruned} | {len(data):,} | {' | '.join(cells)} | {over:.4f} | {held} |"


def main(arguments: list[str]) -> None:
    """Print the tables, or measure LeNet-5."""
    torch.set_num_threads(1)
    if arguments[:1] == ["lenet5"]:
        lenet.run([int(arguments[2])] if arguments[1:2] == ["--seed"] else list(lenet.SEEDS))
        print("\n".join(lenet.report()), f"\n\nThe front as a chart: {lenet.chart()}", sep="")
        return
    print(f"{machine()}\n\n| model | bits | pruned | file, bytes | {' | '.join(PARTS)} | codes / entropy | bars |")
    print("|---|--:|--:|" + "--:|" * (len(PARTS) + 2) + "---|")
    for line in sweep():
        print(line, flush=True)
    print("\n## LeNet-5 on MNIST\n\n" + "\n".join(lenet.report()) + f"\n\n![The front]({lenet.chart().name})")


if __name__ == "__main__":
    main(sys.argv[1:])
