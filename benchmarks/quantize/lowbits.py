"""What a rounding that looks at data gives back at two and three bits, beside nearest with its own best observer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.paired import pair, right
from modelopt_core.machine.cache import STORE
from modelopt_core.structure.layer_table import WEIGHTED
from modelopt_core.tasks.statistics import holm

NETS = ("lenet300", "mlp1200", "lenet5")
CANDIDATE = "gptq"
DRAWS = range(1, 6)  # seeds: each draws 512 other training images
EXAMPLES = 512
LEDGER = "quantize-lowbits"


ABOUT = f"""\
Symmetric grids, a scale a channel, {EXAMPLES} training images, {len(DRAWS)} calibration draws. Each rounding has the
observer that does best on val with draw 1. Test score in %, mean and range over draws; recovered: of what nearest
loses, with Student's 95 % interval over draws; won : lost against nearest and p by McNemar, for the draw with the
largest p; output error: mean over layers of the squared error relative to the outputs, on test inputs; the longest
seconds.
"""


def table() -> Iterator[str]:
    """Markdown: a row for each net and number of bits; McNemar per draw on test, Holm over all of them."""
    found = [measured(net, bits) for net, bits in product(NETS, (2, 3))]
    yield f"## Two and three bits: {CANDIDATE} against nearest\n"
    yield ABOUT
    yield "| net | bits | float | nearest | gptq | recovered | won : lost | p | after Holm | output error | s |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|"
    for r, significant in zip(found, holm([r["p"] for r in found]), strict=True):
        scores, shares = r["scores"], np.array(r["recovered"])
        half = stats.t.ppf(0.975, len(shares) - 1) * shares.std(ddof=1) / np.sqrt(len(shares))
        cells = [
            f"mnist/{r['net']}", r["bits"], f"{r['float']:.2f}", f"{r['nearest']:.2f} ({r['near']})",
            f"{np.mean(scores):.2f}, {min(scores):.2f} – {max(scores):.2f} ({r['ours']})",
            f"{100 * shares.mean():.0f} ± {100 * half:.0f} %", f"{r['won']} : {r['lost']}", f"{r['p']:.1e}",
            "significant" if significant else "not significant",
            f"{r['error'][0]:.4f} → {r['error'][1]:.4f}", f"{r['s']:.1f}",
        ]  # fmt: skip
        yield f"| {' | '.join(map(str, cells))} |"


def measured(net: str, bits: int) -> dict[str, Any]:
    """One row, from `results/quantize-lowbits.jsonl` where it is there already."""
    if kept := ledger.rows(LEDGER, net=net, bits=bits):
        return kept[-1]
    w, model = mo.workload("mnist"), mo.baseline("mnist", net)
    step = mo.Quantize(bits=bits, examples=EXAMPLES)
    near, ours = (best(step.changed(rounding=r), model, w) for r in ("nearest", CANDIDATE))
    plain = near.apply(model, w)
    before, nearest = right(model, w), right(plain, w)
    lost, scores, seconds, pairs, errors = score(before) - score(nearest), [], [], [], []
    for draw in DRAWS:
        STORE.clear()
        start = time.perf_counter()
        small = ours.apply(model, w, seed=draw)
        seconds.append(time.perf_counter() - start)
        after = right(small, w)
        scores.append(score(after))
        pairs.append(pair(nearest, after))
        errors.append(output_error(model, small, w.test.inputs))
    worst = max(pairs, key=lambda p: p.p)
    ledger.append(
        LEDGER, net=net, bits=bits, near=near.observer, ours=ours.observer, float=score(before), nearest=score(nearest),
        scores=scores, recovered=[(s - score(nearest)) / lost for s in scores],
        won=worst.won, lost=worst.lost, p=worst.p,
        error=[output_error(model, plain, w.test.inputs), float(np.mean(errors))], s=max(seconds),
    )  # fmt: skip
    return ledger.rows(LEDGER, net=net, bits=bits)[-1]


def best(step: mo.Quantize, model: nn.Module, w: mo.Workload) -> mo.Quantize:
    """The step with the observer that does best on val."""
    steps = [step.changed(observer=observer) for observer in mo.OBSERVERS]
    return max(steps, key=lambda s: score(right(s.apply(model, w, seed=1), w, "val")))


def score(rights: Tensor) -> float:
    """Percent."""
    return 100 * float(rights.double().mean())


def output_error(model: nn.Module, small: nn.Module, inputs: Tensor) -> float:
    """Mean over layers of ‖y − ŷ‖² / ‖y‖², every layer of both nets behind its own predecessors."""
    found = []
    for a, b in zip(_outputs(model, inputs[:1000]), _outputs(small, inputs[:1000]), strict=True):
        found.append(float((a - b).square().sum() / a.square().sum()))
    return float(np.mean(found))


def _outputs(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    layers = [layer for layer in model.modules() if isinstance(layer, WEIGHTED)]
    handles = [layer.register_forward_hook(lambda _, __, y: kept.append(y.clone())) for layer in layers]
    with torch.inference_mode():
        model(inputs)
    for handle in handles:
        handle.remove()
    return kept
