"""Early exits against the network that they are cut from: errors, multiply–accumulates and time per image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

import modelopt_core as mo
from benchmarks.combine.cascade import CHUNK, CONFIDENCE, MORE, outcome, ratios, spread
from modelopt_core.cascade import Exits, best_thresholds, flow
from modelopt_core.layers import macs
from modelopt_core.measure import stacked
from modelopt_core.workload import Workload

MODELS = (("mnist", "lenet5"), ("mnist", "mlp1200"), ("mnist", "article"), ("digits", "cnn"))


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        "## Early exits from one network, batch 1\n\nLinear heads on hidden layers, fitted on train; the network stays "
        "as shipped. Thresholds are the cheapest, in multiply–accumulates, at which val scores as the whole network "
        f"does. Bound: one-sided 95 % limit of the errors that leaving early makes more on test (bar: {MORE}). Ratios "
        f"are of the network itself: median (quartiles) of turns of {CHUNK} test examples. ONNX Runtime, one thread.\n"
    )
    heads = ("network", "exits behind", "thresholds", "leave at", "errors, ways alone", "errors", "bound", "MACs ×",
             "wall clock ×", "CPU time ×")  # fmt: skip
    yield f"| {' | '.join(heads)} |\n|---|---|---|---|--:|--:|--:|--:|--:|--:|"
    for workload, name in MODELS:
        yield f"| {workload}: {name} | {' | '.join(cells(mo.workload(workload), mo.baseline(workload, name)))} |"


def cells(w: Workload, model: nn.Module) -> list[str]:
    """A row: val chooses the thresholds, test judges."""
    step = mo.Cascade(confidence=CONFIDENCE, stages="exits")
    whole = step.apply([model], w)
    assert isinstance(whole, Exits)
    ones = (1.0,) * len(whole.parts)
    said = {split: stacked(whole.parts, w, split) for split in ("val", "test")}
    sure = {split: step.sure(said[split], ones) for split in said}
    right = {s: torch.stack([mo.predictions(way, w, s).scores for way in whole.parts]) for s in said}
    ways = [float(macs(way, w.example)) for way in whole.parts]
    added = [ways[0], *(b - a for a, b in pairwise(ways))]
    chosen = best_thresholds(sure["val"], right["val"], added, score=float(right["val"][-1].double().mean()))
    happened = flow(sure["test"], right["test"], chosen.thresholds)
    left = step.changed(thresholds=chosen.thresholds).apply([model], w)
    wall, cpu = ratios(mo.compile(model, w), mo.compile(left, w), w)
    return [
        ", ".join(whole.layers),
        *outcome(chosen, happened, right["test"]),
        f"{macs(model, w.example) / happened.cost(added):.1f}",
        *spread(wall, cpu),
    ]
