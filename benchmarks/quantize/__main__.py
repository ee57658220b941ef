"""Everything, or the named parts only: `python -m benchmarks.quantize [lowbits] [peers] [speed]`.

Writes `benchmarks/results/quantize.md`; a part that was not asked for stays as it was. `pip install -e ".[bench]"` for
the peers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator

import torch

from benchmarks.ledger import RESULTS
from benchmarks.machine import machine
from benchmarks.quantize import lowbits, peers, speed

PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "lowbits": lowbits.table,
    "peers": peers.table,
    "speed": speed.table,
}
MARK = "<!-- part: {} -->\n"


def main(names: list[str]) -> None:
    """Run the parts, print them and keep them."""
    torch.set_num_threads(1)
    path = RESULTS / "quantize.md"
    kept = (
        dict(re.findall(r"<!-- part: (\w+) -->\n(.*?)(?=<!-- part|\Z)", path.read_text(), re.S))
        if path.exists()
        else {}
    )
    for name in names or PARTS:
        lines = [f"*{machine()}*", ""]
        for line in PARTS[name]():
            print(line, flush=True)
            lines.append(line)
        kept[name] = "\n".join(lines) + "\n\n"
        path.parent.mkdir(exist_ok=True)
        path.write_text("# Quantization\n\n" + "".join(MARK.format(n) + kept[n] for n in PARTS if n in kept))


if __name__ == "__main__":
    main(sys.argv[1:])
