"""Fusion: one model made of several, by their weights, or by a learned head.

merges.py says how tensors become one, align.py brings independently trained networks into one order first, merge.py
does both to whole networks, path.py walks from one network to another; heads.py holds the modules with a head over
outputs or features, learn.py fits it; fuse.py is the step.
"""

from modelopt_core.steps.fuse.align import align
from modelopt_core.steps.fuse.fuse import Fuse
from modelopt_core.steps.fuse.heads import Joined, Stacked
from modelopt_core.steps.fuse.learn import Learned, learned, reads
from modelopt_core.steps.fuse.merge import aligned, alike, merged, soup
from modelopt_core.steps.fuse.merges import MERGES, MergeContext
from modelopt_core.steps.fuse.path import ROUTES, Spot, barrier, path, routes

__all__ = [
    "MERGES",
    "ROUTES",
    "Fuse",
    "Joined",
    "Learned",
    "MergeContext",
    "Spot",
    "Stacked",
    "align",
    "aligned",
    "alike",
    "barrier",
    "learned",
    "merged",
    "path",
    "reads",
    "routes",
    "soup",
]
