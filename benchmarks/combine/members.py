"""Small members against the best of them, and against one large model at equal bytes and at equal latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

import modelopt_core as mo
from benchmarks.combine.cascade import ratios
from modelopt_core.files import mopt
from modelopt_core.steps.quantize import allocate
from modelopt_core.tasks.statistics import Z, mcnemar
from modelopt_core.workloads.workload import Workload

MEMBERS = ("lenet300", "lenet300-1", "lenet300-2", "lenet300-3", "lenet300-4")


def pool() -> list[nn.Module]:
    """The five members, from five seeds."""
    return [mo.baseline("mnist", name) for name in MEMBERS]


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        "## Five small ones, one large one\n\nAt equal bytes: 1200-1200 with its bits shared out to its layers, "
        "rounded by `gptq`, in a file no larger than that of five members at 4 bits. At equal latency: as many members "
        "as fit into its time. Time: CPU time of one image in ONNX Runtime, against 1200-1200, median of turns. Errors "
        "and loss on test; p of McNemar's test.\n"
    )
    yield from members(mo.workload("mnist"), pool())


def members(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """A row for each way to spend bytes or time."""
    best = max(pool, key=lambda m: float(mo.predictions(m, w).scores.mean()))
    large = mo.baseline("mnist", "mlp1200")
    four = mo.Ensemble().apply([mo.Quantize(bits=4).apply(model, w) for model in pool], w)
    budget = mopt.sizes(four).size_bytes
    shared = allocate(large, w, mo.Quantize(bits=2), budget_bytes=budget).changed(rounding="gptq")
    rows = {
        "best member on val": best,
        **{f"{n} members": mo.Ensemble().apply(pool[:n], w) for n in range(2, len(pool) + 1)},
        "5 members at 4 bits": four,
        "1200-1200 at equal bytes": shared.apply(large, w),
        **{f"1200-1200 at {b} bits": mo.Quantize(bits=b, rounding="gptq").apply(large, w) for b in (2, 3, 4)},
        "1200-1200": large,
    }
    yield "| model | bytes | time × | log loss | minus 1200-1200 | errors | p, best member | p, 1200-1200 |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    clock = mo.compile(large, w)
    for name, model in rows.items():
        spent = 1.0 if model is large else float(1 / np.median(ratios(clock, mo.compile(model, w), w)[1]))
        cells = [name, f"{mopt.sizes(model).size_bytes:,}", f"{spent:.2f}", *_errors(w, model, best, large)]
        yield f"| {' | '.join(cells)} |"


def _errors(w: Workload, model: nn.Module, best: nn.Module, large: nn.Module) -> list[str]:
    """Loss, how much it is above the large model's, errors, p against the best member and against the large model."""
    found, member, other = (mo.predictions(one, w, "test") for one in (model, best, large))
    loss, was = (
        -p.outputs.log_probabilities.gather(1, w.test.targets[:, None])[:, 0].double().numpy() for p in (found, other)
    )
    extra = loss - was
    p = [mcnemar(one.scores.numpy(), found.scores.numpy()) for one in (member, other)]
    half = Z * extra.std(ddof=1) / np.sqrt(len(extra))
    told = [f"{flips.won} won, {flips.lost} lost, {flips.p:.3f}" for flips in p]
    return [f"{loss.mean():.4f}", f"{extra.mean():+.4f} ± {half:.4f}", str(int(len(extra) - found.scores.sum())), *told]
