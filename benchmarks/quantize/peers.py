"""Beside torchao (weights only), ONNX Runtime's static int8 and NNCF's int8: same checkpoints, same test images."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import nncf
import onnx
import onnxruntime
import torch
from onnxruntime import quantization as ort
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup, quantize_

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.paired import Pair, pair, right
from benchmarks.quantize.lowbits import score
from modelopt_core.runtime import onnx_export
from modelopt_core.structure.layer_inputs import sample
from modelopt_core.tasks.statistics import holm

NETS = ("digits/cnn", "digits/mlp", "mnist/lenet300", "mnist/lenet5", "mnist/mlp1200")
KINDS = {2: torch.int2, 3: torch.int3, 4: torch.int4, 8: torch.int8}
GROUP = 16
EXAMPLES = 512
LEDGER = "quantize-peers"


ABOUT = """\
Same checkpoints, bits and granularity. Weights only: linear layers, ours with `gptq` on 512 training examples
and the observer that does best on val. int8: the graph that each makes, in ONNX Runtime, calibrated on 512 training
examples. Test score in %; won : lost and p by McNemar, ours against theirs; Holm over all cells.
"""


def table() -> Iterator[str]:
    """Markdown: every cell; McNemar on test, Holm over all cells."""
    found = [row for net in NETS for row in measured(net)]
    pairs = [Pair(row["won"], row["lost"], row["n"]) for row in found]
    yield f"## Peers: torchao {version('torchao')}, ONNX Runtime {version('onnxruntime')}, NNCF {version('nncf')}\n"
    yield ABOUT
    yield "| net | peer | setting | float | theirs | ours | won : lost | p | ours, after Holm |"
    yield "|---|---|---|--:|--:|--:|--:|--:|---|"
    for row, p, significant in zip(found, pairs, holm([p.p for p in pairs]), strict=True):
        verdict = ("better" if p.won > p.lost else "worse") if significant else "not significant"
        yield (
            f"| {row['net']} | {row['peer']} | {row['setting']} | {row['float']:.2f} | {row['theirs']:.2f} "
            f"| {row['ours']:.2f} ({row['how']}) | {p.won} : {p.lost} | {p.p:.2g} | {verdict} |"
        )


def measured(net: str) -> list[dict[str, Any]]:
    """All cells of one net, from `results/quantize-peers.jsonl` where they are there already."""
    if kept := ledger.rows(LEDGER, net=net):
        return kept
    w, model = mo.workload(net.split("/")[0]), mo.baseline(*net.split("/"))
    floats, rows = right(model, w), []
    for setting, peer, theirs, ours, how in cells(model, w):
        p = pair(theirs, ours)
        scores = {"float": score(floats), "theirs": score(theirs), "ours": score(ours)}
        rows.append({"peer": peer, "setting": setting, **scores, "how": how, "won": p.won, "lost": p.lost, "n": p.n})
    for row in rows:
        ledger.append(LEDGER, net=net, **row)
    return ledger.rows(LEDGER, net=net)


def cells(model: nn.Module, w: mo.Workload) -> Iterator[tuple[str, str, Tensor, Tensor, str]]:
    """(setting, peer, their test answers (n,), ours (n,), how ours were had)."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    convolutions = {n: 32 for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    pers = ["channel", "group"] if all(m.in_features % GROUP == 0 for m in linear) else ["channel"]
    for bits, per in product(KINDS, pers):
        theirs = copy.deepcopy(model)
        at = PerAxis(0) if per == "channel" else PerGroup(GROUP)
        quantize_(theirs, IntxWeightOnlyConfig(weight_dtype=KINDS[bits], granularity=at))
        step = mo.Quantize(bits=bits, per=per, group=GROUP, rounding="gptq", layer_bits=convolutions, examples=EXAMPLES)
        steps = [step.changed(observer=observer) for observer in mo.OBSERVERS]
        ours = max(steps, key=lambda s: score(right(s.apply(model, w), w, "val")))
        setting = f"{bits} bits, {per if per == 'channel' else f'group of {GROUP}'}"
        yield setting, "torchao", right(theirs, w), right(ours.apply(model, w), w), ours.observer
    compiled = mo.compile(mo.Quantize(bits=8).apply(model, w), w)
    ours_right, how = answers(compiled, w), compiled.label.removeprefix("ONNX Runtime ")
    for peer, graph in (("ONNX Runtime", static(model, w)), ("NNCF", by_nncf(model, w))):
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        found = answers(lambda x, s=session: torch.from_numpy(s.run(None, {onnx_export.INPUT: x.numpy()})[0]), w)
        yield "int8", peer, found, ours_right, how


def answers(run: Callable[[Tensor], Tensor], w: mo.Workload) -> Tensor:
    """(n,) bool: which test examples are answered rightly."""
    parts = [w.example_scores(mo.Outputs(run(x)), y) for x, y in w.test.batches(250)]
    return torch.cat(parts) > 0.5


def static(model: nn.Module, w: mo.Workload) -> onnx.ModelProto:
    """ONNX Runtime's own static quantization: QDQ, per channel, int8 weights, uint8 activations, min and max."""
    examples = w.train.inputs[sample(len(w.train), EXAMPLES)].numpy()

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{onnx_export.INPUT: examples}])

        def get_next(self) -> dict[str, object] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, done = (Path(folder) / name for name in ("plain.onnx", "ready.onnx", "done.onnx"))
        mo.export_onnx(model, w, plain, precision="float")
        quant_pre_process(str(plain), str(ready))
        ort.quantize_static(
            str(ready), str(done), Reader(), quant_format=ort.QuantFormat.QDQ, per_channel=True,
            weight_type=ort.QuantType.QInt8, activation_type=ort.QuantType.QUInt8,
        )  # fmt: skip
        return onnx.load(done)


def by_nncf(model: nn.Module, w: mo.Workload) -> onnx.ModelProto:
    """NNCF's post-training quantization of the same graph, with its defaults."""
    nncf.set_log_level(logging.ERROR)
    inputs = w.train.inputs[sample(len(w.train), EXAMPLES)].numpy()
    data = nncf.Dataset([inputs[i : i + 1] for i in range(len(inputs))], lambda x: {onnx_export.INPUT: x})
    return nncf.quantize(onnx_export.onnx_graph(model, w.example), data, subset_size=EXAMPLES)
