"""Five small members against the best of them and against one large model, in bytes and in errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

import modelopt_core as mo
from modelopt_core import codec
from modelopt_core.estimate import Z, mcnemar
from modelopt_core.workload import Workload

MEMBERS = ("lenet300", "lenet300-1", "lenet300-2", "lenet300-3", "lenet300-4")


def pool() -> list[nn.Module]:
    """The five members, from five seeds."""
    return [mo.baseline("mnist", name) for name in MEMBERS]


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield "## Five small ones, one large one\n"
    yield from members(mo.workload("mnist"), pool())


def members(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """Five members against the best of them; the same at 4 bits against one large model of as many bytes."""
    truth, best = w.test.targets, max(pool, key=lambda m: float(mo.predictions(m, w).scores.mean()))
    four = [mo.Quantize(bits=4).apply(model, w) for model in pool]
    large = mo.baseline("mnist", "mlp1200")
    rows = {
        "best member on val": best,
        "five, equal weights": mo.Ensemble().apply(pool, w),
        "five at 4 bits": mo.Ensemble().apply(four, w),
        **{f"1200-1200 at {b} bits": mo.Quantize(bits=b).apply(large, w) for b in (2, 3, 4)},
        "1200-1200": large,
    }
    base = mo.predictions(best, w, "test")
    yield "| model | bytes | log loss on test | minus best member | errors | won, lost, p against best member |"
    yield "|---|--:|--:|--:|--:|---|"
    for name, model in rows.items():
        found = mo.predictions(model, w, "test")
        loss, was = (
            -p.outputs.log_probabilities.gather(1, truth[:, None])[:, 0].double().numpy() for p in (found, base)
        )
        extra = loss - was
        flips = mcnemar(base.scores.numpy(), found.scores.numpy())
        yield (
            f"| {name} | {codec.sizes(model).size_bytes:,} | {loss.mean():.4f} | {extra.mean():+.4f} ± "
            f"{Z * extra.std(ddof=1) / np.sqrt(len(extra)):.4f} | {int(len(truth) - found.scores.sum())} | "
            f"{flips.won}, {flips.lost}, p = {flips.p:.3f} |"
        )
