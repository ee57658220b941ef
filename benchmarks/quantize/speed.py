"""Integer kernels against float32 in ONNX Runtime, in turn."""

from __future__ import annotations

from collections.abc import Iterator

import modelopt_core as mo
from modelopt_core.runtime.latency import interleave

NETS = ("digits/cnn", "digits/mlp", "mnist/lenet300", "mnist/lenet5", "mnist/mlp1200")
BATCHES = (1, 64)
BARS = {("mnist/lenet300", 64), ("mnist/lenet5", 64), ("mnist/mlp1200", 64), ("mnist/mlp1200", 1)}
LEAST = 1.4
PAIRS, BUDGET_S = 300, 6.0


def table() -> Iterator[str]:
    """Markdown: a row for each net, batch and kernel."""
    yield "## Integer kernels against float32, both in ONNX Runtime, one thread, in turn\n"
    yield "Median between quartiles of the ratio of two calls in a row; where no bar is set, it is reported.\n"
    yield "| net | kernel | batch | float32 ms | ms | times faster | pairs | bar |\n|---|---|--:|--:|--:|--:|--:|---|"
    for net in NETS:
        w, model = mo.workload(net.split("/")[0]), mo.baseline(*net.split("/"))
        floats = mo.compile(model, w)
        for bits in (8, 4):
            fast = mo.compile(mo.Quantize(bits=bits).apply(model, w), w)
            if not fast.integer:
                continue
            for batch in BATCHES:
                x = w.val.inputs[:batch]
                t = interleave(lambda f=fast, x=x: f(x), lambda f=floats, x=x: f(x), repeats=PAIRS, budget_s=BUDGET_S)
                bar = f"≥ {LEAST}" if bits == 8 and (net, batch) in BARS else ""
                yield (
                    f"| {net} | {fast.label.removeprefix('ONNX Runtime ')} | {batch} | {t.baseline_ms.value:.3f} "
                    f"| {t.latency_ms.value:.3f} | {t.speedup.value:.2f}, {t.speedup.low:.2f} – {t.speedup.high:.2f} "
                    f"| {t.speedup.n} | {bar}{' noisy' if t.noisy else ''} |"
                )
