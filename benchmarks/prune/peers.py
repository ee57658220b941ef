"""Channels cut by us and by Torch-Pruning: the same checkpoint and criterion, equal multiply-accumulates, the same
recovery, the same test examples.

Torch-Pruning scores whole groups of coupled layers by default, incoming and outgoing weights and batch norm; here a
criterion is what its paper says. Each side's ratio is searched for so that the multiply-accumulates meet.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from itertools import product
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.checkpoints import trained
from benchmarks.paired import pair, right
from modelopt_core import identity
from modelopt_core.calls import sample
from modelopt_core.events import silent
from modelopt_core.layers import macs
from modelopt_core.prune.stats import EXAMPLES
from modelopt_core.train import fit, reestimate_norms
from modelopt_core.workload import Workload

LEDGER = "prune-peers"
NETS = {"digits/cnn": 5, "docstrings/textcnn": 5, "mnist/article": 1, "mnist/lenet5": 1}  # checkpoints
THEIRS: dict[str, Callable[[], Any]] = {
    "l1": partial(tp.importance.GroupMagnitudeImportance, p=1),
    "l2": partial(tp.importance.GroupMagnitudeImportance, p=2),
    "taylor": tp.importance.GroupTaylorImportance,
    "fisher": tp.importance.GroupHessianImportance,
    "fpgm": tp.importance.FPGMImportance,
    "lamp": tp.importance.LAMPImportance,
    "bn_scale": tp.importance.BNScaleImportance,
    "random": tp.importance.RandomImportance,
}
LEFT = (0.5, 0.25, 0.1)  # share of the multiply-accumulates that is to be left
TUNED = {"digits/cnn": 3, "docstrings/textcnn": 2}  # epochs of fine-tuning, in cells of their own
HALVINGS = 10


def theirs(model: nn.Module, workload: Workload, criterion: str) -> tuple[nn.Module, Any]:
    """A copy with the gradients that the importance asks for, and the importance."""
    model, importance = copy.deepcopy(model), THEIRS[criterion]()
    model.requires_grad_(True)
    at = sample(len(workload.train), EXAMPLES)
    inputs, targets = workload.train.inputs[at], workload.train.targets[at]
    if criterion == "taylor":
        workload.loss(workload.forward(model, inputs), targets).backward()
    if criterion == "fisher":
        importance.zero_grad()
        for x, y in zip(inputs.split(1), targets.split(1), strict=True):
            model.zero_grad()
            workload.loss(workload.forward(model, x), y).backward()
            importance.accumulate_grad(model)
    return model, importance


def cut_by_them(prepared: tuple[nn.Module, Any], example: Tensor, ratio: float, scope: str, seed: int) -> nn.Module:
    """Torch-Pruning's answer to one ratio."""
    model, importance = copy.deepcopy(prepared)
    for parameter, given in zip(model.parameters(), prepared[0].parameters(), strict=True):
        parameter.grad = None if given.grad is None else given.grad.clone()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tp.pruner.BasePruner(
            model, example, importance, global_pruning=scope == "global", pruning_ratio=ratio, ignored_layers=[last]
        ).step()
    return model.zero_grad(set_to_none=True) or model.eval()


def cut_by_us(model: nn.Module, workload: Workload, criterion: str, ratio: float, scope: str, seed: int) -> nn.Module:
    """Our answer to one ratio, not kept."""
    step = mo.Prune(ratio=ratio, criterion=criterion, scope=scope, recovery="none")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return step.transform(identity.clone(model), workload, generator, silent).eval()


def nearest(cut: Callable[[float], nn.Module], example: Tensor, aim: int) -> tuple[nn.Module, int]:
    """The network, of all ratios, whose multiply-accumulates are nearest to `aim`, and how many they are."""
    low, high, found = 0.0, 1.0, []
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        model = cut(ratio)
        found.append((abs((count := macs(model, example)) - aim), count, ratio))
        low, high = (ratio, high) if count > aim else (low, ratio)
    _, count, ratio = min(found)
    return cut(ratio), count


def recovered(model: nn.Module, workload: Workload, recovery: str, epochs: int, seed: int) -> nn.Module:
    """What follows on both sides."""
    model = reestimate_norms(model, workload)
    return fit(model, workload, epochs=epochs, lr=1e-3, seed=seed) if recovery == "fine-tuned" else model


def measure(name: str, seed: int) -> None:
    """All cells of one checkpoint."""
    workload, model = mo.workload(name.split("/")[0]), trained(name, seed)
    example, whole = workload.example, macs(model, workload.example)
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    cells = []
    for criterion in (c for c in THEIRS if norms or c != "bn_scale"):
        start = time.perf_counter()
        prepared = theirs(model, workload, criterion)
        ready_s = time.perf_counter() - start
        for scope, left in product(("layer", "global"), LEFT):
            ours, count = nearest(
                partial(_by_us, model, workload, criterion, scope, seed), example, round(left * whole)
            )
            other, their_count = nearest(partial(_by_them, prepared, example, scope, seed), example, count)
            start = time.perf_counter()
            _by_us(model, workload, criterion, scope, seed, 0.5)
            middle = time.perf_counter()
            _by_them(prepared, example, scope, seed, 0.5)
            times = {"ours_ms": 1e3 * (middle - start), "theirs_ms": 1e3 * (time.perf_counter() - middle)}
            for recovery in ("norms", "fine-tuned")[: 1 + (name in TUNED)]:
                answers = [
                    right(recovered(m, workload, recovery, TUNED.get(name, 0), seed), workload) for m in (other, ours)
                ]
                found = pair(*answers)
                cells.append(
                    {
                        "criterion": criterion, "scope": scope, "left": left, "recovery": recovery, "macs": count,
                        "their_macs": their_count, "ours": float(answers[1].double().mean()),
                        "theirs": float(answers[0].double().mean()), "won": found.won, "lost": found.lost,
                        "n": found.n, "ready_ms": 1e3 * ready_s, **times,
                    }
                )  # fmt: skip
    version = metadata.version("torch-pruning")
    ledger.append(LEDGER, net=name, seed=seed, peer=f"torch-pruning {version}", whole=whole, cells=cells)


def _by_us(model: nn.Module, workload: Workload, criterion: str, scope: str, seed: int, ratio: float) -> nn.Module:
    return cut_by_us(model, workload, criterion, ratio, scope, seed)


def _by_them(prepared: tuple[nn.Module, Any], example: Tensor, scope: str, seed: int, ratio: float) -> nn.Module:
    return cut_by_them(prepared, example, ratio, scope, seed)
