"""Fusion: several networks of one architecture become one network of the same size.

merges.py says how tensors become one, align.py brings independently trained networks into one order first, path.py
walks from one network to another, step.py does it to a pool.
"""

from modelopt_core.fuse.align import align
from modelopt_core.fuse.merges import MERGES, MergeContext
from modelopt_core.fuse.path import Spot, barrier, path
from modelopt_core.fuse.step import Fuse

__all__ = ["MERGES", "Fuse", "MergeContext", "Spot", "align", "barrier", "path"]
