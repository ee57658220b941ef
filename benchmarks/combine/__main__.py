"""Everything, or the named parts only: `python -m benchmarks.combine [weights] [sliders] [cascade] …`."""

from __future__ import annotations

import sys

import torch

from benchmarks import parts
from benchmarks.combine import alignment, cascade, exits, members, pipeline, reliability, sliders, stacking, weights

PARTS = {
    "weights": weights.table,
    "sliders": sliders.table,
    "cascade": cascade.table,
    "members": members.table,
    "pipeline": pipeline.table,
    "reliability": reliability.table,
    "exits": exits.table,
    "stacking": stacking.table,
    "alignment": alignment.table,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    parts.write("combine", "Several models as one", PARTS, sys.argv[1:])
