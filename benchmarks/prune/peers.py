"""Channels cut by us and by Torch-Pruning: the same checkpoint and criterion, equal multiply-accumulates, the same
recovery, the same test examples.

Torch-Pruning runs as it comes, without hints; its score of a group is a mean over the layers of the group. Each side's
ratio is searched for so that the multiply-accumulates meet. `random` is left out: two draws have nothing to compare.

Two of Torch-Pruning 1.6.1's criteria are not what their papers say. `accumulate_grad` of its Hessian keeps the last
example's gradient only; here it gets the sum that it asks for. Its FPGM takes distances between squared weights, and is
left as it is.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from itertools import product
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.checkpoints import trained
from benchmarks.paired import Pair, pair, right, told
from modelopt_core import identity
from modelopt_core.calls import sample
from modelopt_core.estimate import holm
from modelopt_core.events import silent
from modelopt_core.layers import macs
from modelopt_core.prune.stats import EXAMPLES
from modelopt_core.train import fit, reestimate_norms
from modelopt_core.workload import Workload

LEDGER = "prune-peers"
NETS = {"digits/cnn": 5, "docstrings/textcnn": 1, "mnist/article": 1, "mnist/lenet5": 1}  # checkpoints of each
THEIRS: dict[str, Callable[[], Any]] = {
    "l1": partial(tp.importance.GroupMagnitudeImportance, p=1),
    "l2": partial(tp.importance.GroupMagnitudeImportance, p=2),
    "taylor": tp.importance.GroupTaylorImportance,
    "fisher": tp.importance.GroupHessianImportance,
    "fpgm": tp.importance.FPGMImportance,
    "lamp": tp.importance.LAMPImportance,
    "bn_scale": tp.importance.BNScaleImportance,
}
LEFT = (0.5, 0.25, 0.1)  # share of the multiply-accumulates that is to be left
TUNED = {"digits/cnn": 3}  # epochs of fine-tuning, in cells of their own: the cheap network only
HALVINGS = 8
TOLERANCE = 0.02  # between the two sides' multiply-accumulates
NONE = Pair(0, 0, 0)
Prepared = tuple[nn.Module, Any]  # a network with its gradients, and Torch-Pruning's importance


def theirs(model: nn.Module, workload: Workload, criterion: str) -> Prepared:
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
            gradients = torch.autograd.grad(workload.loss(workload.forward(model, x), y), list(model.parameters()))
            for parameter, slope in zip(model.parameters(), gradients, strict=True):
                importance._accu_grad[parameter] = importance._accu_grad.get(parameter, 0) + slope.square()
                importance._counter[parameter] = len(at)
                parameter.grad = slope
    return model, importance


def cut_by_them(prepared: Prepared, example: Tensor, ratio: float, scope: str, seed: int) -> nn.Module:
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


def measure(name: str, seed: int, criterion: str) -> Iterator[dict[str, object]]:
    """All cells of one checkpoint and criterion."""
    workload, model = mo.workload(name.split("/")[0]), trained(name, seed)
    example, whole = workload.example, macs(model, workload.example)
    prepared = theirs(model, workload, criterion)
    for scope, left in product(("layer", "global"), LEFT):

        def by_us(ratio: float, scope: str = scope) -> nn.Module:
            return cut_by_us(model, workload, criterion, ratio, scope, seed)

        def by_them(ratio: float, scope: str = scope) -> nn.Module:
            return cut_by_them(prepared, example, ratio, scope, seed)

        ours, count = nearest(by_us, example, round(left * whole))
        other, their_count = nearest(by_them, example, count)
        times = {"ours_ms": _clock(by_us), "theirs_ms": _clock(by_them)}
        for recovery in ("norms", "fine-tuned")[: 1 + (name in TUNED)]:
            how = (workload, recovery, TUNED.get(name, 0), seed)
            after = right(recovered(ours, *how), workload)
            before = after if _same(ours, other) else right(recovered(other, *how), workload)
            found = pair(before, after)
            yield {
                "criterion": criterion, "scope": scope, "left": left, "recovery": recovery, "macs": count,
                "their_macs": their_count, "ours": float(after.double().mean()),
                "theirs": float(before.double().mean()), "won": found.won, "lost": found.lost, "n": found.n,
                **times,
            }  # fmt: skip


def run(arguments: list[str]) -> None:
    """What is not measured yet, of all networks or of those named."""
    for name in [name for name in NETS if name in arguments] or NETS:
        for seed, criterion in product(range(NETS[name]), THEIRS):
            normed = any(isinstance(m, nn.BatchNorm2d) for m in trained(name, seed).modules())
            if (normed or criterion != "bn_scale") and not ledger.rows(
                LEDGER, net=name, seed=seed, criterion=criterion
            ):
                cells = list(measure(name, seed, criterion))
                peer = f"torch-pruning {metadata.version('torch-pruning')}"
                ledger.append(LEDGER, net=name, seed=seed, criterion=criterion, peer=peer, cells=cells)
                print(f"peers {name} {seed} {criterion}", flush=True)


def table() -> Iterator[str]:
    """Markdown: one line for every cell, all seeds pooled; the verdict after Holm over all cells."""
    cells: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for row in ledger.rows(LEDGER):
        for cell in row["cells"]:
            key = tuple(str(cell[k]) for k in ("criterion", "scope", "left", "recovery"))
            cells.setdefault((row["net"], *key), []).append(cell)
    pooled = {key: sum((Pair(c["won"], c["lost"], c["n"]) for c in found), NONE) for key, found in cells.items()}
    equal = [key for key, found in cells.items() if abs(_more(found) - 1) <= TOLERANCE]
    clear = dict(zip(equal, holm([pooled[key].p for key in equal]), strict=True))
    worse = [key for key in equal if clear[key] and pooled[key].delta < 0]
    better = [key for key in equal if clear[key] and pooled[key].delta > 0]
    ours_ms, theirs_ms = (
        np.median([c[f"{side}_ms"] for found in cells.values() for c in found]) for side in ("ours", "theirs")
    )
    yield (
        f"{len(equal)} cells at equal multiply-accumulates (within {TOLERANCE:.0%}): {len(better)} significantly "
        f"better than Torch-Pruning, {len(worse)} worse, the others not told apart, after Holm over all of them. In "
        f"{len(cells) - len(equal)} more no ratios were found that meet: shown, not judged. One cut takes us "
        f"{ours_ms:.0f} ms and Torch-Pruning {theirs_ms:.0f} ms (medians, statistics at hand on both sides).\n"
    )
    yield "| net | criterion | scope | MACs left | then | ours : theirs MACs | ours | theirs | points | p | |"
    yield "|---|---|---|--:|---|--:|--:|--:|--:|--:|---|"
    for key, found in cells.items():
        mean = {k: sum(c[k] for c in found) / len(found) for k in ("ours", "theirs")}
        word = "better" if key in better else "**worse**" if key in worse else "" if key in equal else "MACs differ"
        yield (
            f"| {' | '.join(key)} | {_more(found):.3f} | {mean['ours']:.1%} | "
            f"{mean['theirs']:.1%} | {pooled[key].delta:+.1f} | {told(pooled[key].p)} | {word} |"
        )


def _same(ours: nn.Module, other: nn.Module) -> bool:
    """Both sides kept the same channels."""
    mine, others = ours.state_dict(), other.state_dict()
    return all(mine[k].shape == others[k].shape and torch.equal(mine[k], others[k]) for k in mine)


def _more(cells: list[dict[str, float]]) -> float:
    """Our multiply-accumulates as a multiple of theirs, over the seeds."""
    return sum(c["macs"] for c in cells) / sum(c["their_macs"] for c in cells)


def _clock(cut: Callable[[float], nn.Module]) -> float:
    """Milliseconds of one cut of half the channels."""
    start = time.perf_counter()
    cut(0.5)
    return 1e3 * (time.perf_counter() - start)
