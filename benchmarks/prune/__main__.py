"""`python -m benchmarks.prune`: see the package."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from benchmarks import ledger
from benchmarks.machine import machine
from benchmarks.prune import criteria, masks, peers, sparse

PARTS = {"masks": masks, "peers": peers, "criteria": criteria, "sparse": sparse}
TITLES = {
    "masks": "`l1` and `torch.nn.utils.prune`",
    "peers": "Channels: Torch-Pruning, at equal multiply-accumulates",
    "criteria": "Which criterion",
    "sparse": "How few weights: rounds and fine-tuning on MNIST",
}


def report() -> Iterator[str]:
    """All tables, each with when and where its rows were measured."""
    yield "# Pruning, measured\n\n`python -m benchmarks.prune`. Every cell is shown, also those that were lost.\n"
    for name, part in PARTS.items():
        where = sorted({row["machine"] for row in ledger.rows(part.LEDGER)})
        yield f"## {TITLES[name]}\n\n{'; '.join(where) or 'Not measured yet.'}\n"
        yield from part.table()
        yield ""


def main(arguments: list[str]) -> None:
    """Measure what was asked for, then write the table."""
    torch.set_num_threads(1)
    print(machine(), flush=True)
    for name, part in PARTS.items():
        if not arguments or arguments[0] == name:
            part.run(arguments[1:])
    text = "\n".join(report())
    (ledger.RESULTS / "prune.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
