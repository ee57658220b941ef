"""`l1` against `torch.nn.utils.prune`: every weight of every baseline, at the edges of the ratio too."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import modelopt_core as mo
from benchmarks import ledger

LEDGER = "prune-masks"
NETS = ("digits/cnn", "digits/mlp", "mnist/article", "mnist/lenet300", "mnist/lenet5")
KINDS = (nn.Linear, nn.Conv2d)


def equal(name: str, ratio: float, scope: str) -> bool:
    """Are the pruned networks equal in every weight?"""
    workload = mo.workload(name.split("/")[0])
    step = mo.Prune(ratio=ratio, granularity="weight", scope=scope, recovery="none")
    ours, theirs = step.apply(mo.baseline(*name.split("/")), workload), mo.baseline(*name.split("/"))
    parts = [(m, "weight") for m in theirs.modules() if isinstance(m, KINDS)]
    if scope == "global":
        torch_prune.global_unstructured(parts, pruning_method=torch_prune.L1Unstructured, amount=ratio)
    else:
        for module, at in parts:
            torch_prune.l1_unstructured(module, at, amount=ratio)
    pairs = zip(parts, [m for m in ours.modules() if isinstance(m, KINDS)], strict=True)
    return all(torch.equal(module.weight, mine.weight) for (module, _), mine in pairs)


def run(_: list[str]) -> None:
    """All of them, if they are not measured yet."""
    if not ledger.rows(LEDGER):
        tried = list(product(NETS, (0.0, 0.001, 0.3, 0.5, 0.9, 0.999), ("layer", "global")))
        ledger.append(LEDGER, tried=len(tried), equal=sum(equal(*cell) for cell in tried))


def table() -> Iterator[str]:
    """One sentence."""
    for row in ledger.rows(LEDGER)[-1:]:
        yield f"{row['equal']} of {row['tried']} pruned networks equal PyTorch's in every weight, by layer and global."
