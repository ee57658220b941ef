"""Everything, or the named parts only: `python -m benchmarks.quantize [lowbits] [peers] [speed]`.

Writes `benchmarks/results/quantize.md`; a part that was not asked for stays as it was. `pip install -e ".[bench]"` for
the peers.
"""

from __future__ import annotations

import sys

import torch

from benchmarks import parts
from benchmarks.quantize import lowbits, peers, speed

PARTS = {
    "lowbits": lowbits.table,
    "peers": peers.table,
    "speed": speed.table,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    parts.write("quantize", "Quantization", PARTS, sys.argv[1:])
