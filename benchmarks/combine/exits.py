"""Early exits against the network that they are cut from: errors, multiply–accumulates and time per image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

import modelopt_core as mo
from benchmarks.checkpoints import kept
from benchmarks.combine.cascade import CHUNK, CONFIDENCE, FEW, IMAGES, MORE, outcome, ratios, spread
from modelopt_core.machine.digest import digest
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import identity
from modelopt_core.steps.cascade import Exits, best_thresholds, flow
from modelopt_core.steps.cascade.exits import branched
from modelopt_core.structure.layer_table import macs
from modelopt_core.workloads.workload import Workload

FITTED: dict[str, Any] = {"exits": ()}
JOINT: dict[str, Any] = {"hidden": 128, "epochs": 12}
HEADS: dict[str, Any] = {"hidden": 128, "epochs": 20, "frozen": True}
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("mnist", "lenet5", FITTED),
    ("mnist", "lenet5", {**JOINT, "exits": ("inputs", "conv1", "conv2")}),
    ("mnist", "mlp1200", FITTED),
    ("mnist", "mlp1200", {**JOINT, "exits": ("inputs", "fc1"), "epochs": 20}),
    ("mnist", "mlp1200", {**HEADS, "exits": ("inputs", "fc1")}),
    ("mnist", "article", FITTED),
    ("mnist", "article", {**JOINT, "exits": ("inputs", "conv1")}),
    ("digits", "cnn", FITTED),
    ("docstrings", "textcnn", FITTED),
)


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        "## Early exits from one network, batch 1\n\nFitted: linear heads on hidden layers, the network stays as "
        "shipped. All trained: network and heads together; heads trained: those alone; with a hidden layer of "
        f"{JOINT['hidden']}; `inputs` is an exit before the first layer. Thresholds are the cheapest, in "
        "multiply–accumulates, at which val scores as the last exit does (score), or at which at most "
        f"{FEW} of {IMAGES:,} val examples are right with one and wrong with the other. Errors and the bound are "
        "against the network as shipped. Bound: one-sided 95 % limit of the errors that leaving early makes more on "
        f"test (bar: {MORE}). Ratios are of the network itself: median (quartiles) of turns of {CHUNK} test examples; "
        "ceiling: if all left at the first exit, CPU time. ONNX Runtime, one thread.\n"
    )
    heads = ("network", "heads", "exits", "rule", "thresholds", "leave at", "errors, ways alone", "errors", "bound",
             "MACs ×", "wall clock ×", "CPU time ×", "ceiling ×")  # fmt: skip
    yield f"| {' | '.join(heads)} |\n|---|---|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for workload, name, how in ROWS:
        w, model = mo.workload(workload), mo.baseline(workload, name)
        whole, told = with_exits(w, model, f"{workload}-{name}", how)
        for changes in (None, FEW) if len(w.val) == IMAGES else (None,):
            rule = "score" if changes is None else f"≤ {changes} changes"
            found = cells(w, model, whole, changes)
            yield f"| {workload}: {name} | {told} | {', '.join(whole.layers)} | {rule} | {' | '.join(found)} |"


def with_exits(w: Workload, model: nn.Module, name: str, how: dict[str, Any], seed: int = 0) -> tuple[Exits, str]:
    """The network with exits, and what was done to it; trained ones are kept beside the other checkpoints."""
    step = mo.Cascade(confidence=CONFIDENCE, stages="exits", **how)
    if not step.epochs:
        whole, told = step.apply([model], w), "fitted"
    else:
        key = digest(step, identity.key(model), w.data_hash, seed, torch.__version__)[:16]
        like = branched(model, w, step.exits, CONFIDENCE, step.hidden)
        whole = kept(f"exits-{name}-{key}", like, partial(step.apply, [model], w, seed=seed))
        told = f"{'heads' if step.frozen else 'all'} trained, {step.epochs} epochs"
    assert isinstance(whole, Exits)
    return whole, told


def cells(w: Workload, model: nn.Module, whole: Exits, changes: int | None) -> list[str]:
    """The rest of a row: val chooses the thresholds, test judges. changes: as in cascade.py; None for the score."""
    step = mo.Cascade(confidence=CONFIDENCE, stages="exits")
    ones = (1.0,) * len(whole.parts)
    sure = {split: step.sure(stacked(whole.parts, w, split), ones) for split in ("val", "test")}
    right = {s: torch.stack([mo.predictions(way, w, s).scores for way in whole.parts]) for s in ("val", "test")}
    ways = [float(macs(way, w.example)) for way in whole.parts]
    added = [ways[0], *(b - a for a, b in pairwise(ways))]
    wanted, least = right["val"], float(right["val"][-1].double().mean())
    if changes is not None:
        wanted = (wanted == wanted[-1]).float()
        least = 1 - changes / wanted.shape[1]
    chosen = best_thresholds(sure["val"], wanted, added, score=least)
    happened = flow(sure["test"], right["test"], chosen.thresholds)
    left = step.changed(thresholds=chosen.thresholds).apply([whole], w)
    slow, fast, first = (mo.compile(one, w) for one in (model, left, whole.parts[0]))
    (wall, cpu), (_, ceiling) = ratios(slow, fast, w), ratios(slow, first, w)
    return [
        *outcome(chosen, happened, right["test"], mo.predictions(model, w, "test").scores),
        f"{macs(model, w.example) / happened.cost(added):.1f}",
        *spread(wall, cpu, ceiling),
    ]
