"""A pipeline as one ONNX graph: the same answers at every setting and batch, maps and experts in branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.runtime.inference import predict
from modelopt_core.steps.pipeline import chains
from modelopt_core.workloads.workload import Workload

CASES = [(name, chain) for name in ("digits", "docstrings") for chain in chains(mo.workload(name))]


def models_of(data: Workload, chain: tuple[str, ...]) -> list[nn.Module]:
    return [mo.baseline(data.name, name) for task in map(data.subtask, chain) for name in task.models]


def inputs_of(name: str, chain: tuple[str, ...]) -> Workload:
    return mo.damaged(mo.workload(name)) if "quality" in chain else mo.workload(name)


@pytest.mark.parametrize(("name", "chain"), CASES)
@pytest.mark.parametrize(("threshold", "suspicion"), [(0.0, 0.0), (0.8, 0.4), (1.0, 1.0)])
def test_one_graph_says_what_the_module_says(
    name: str, chain: tuple[str, ...], threshold: float, suspicion: float, tmp_path: Path
) -> None:
    data = inputs_of(name, chain)
    whole = mo.Pipeline(stages=chain, threshold=threshold, suspicion=suspicion).apply(models_of(data, chain), data)
    expected = mo.predictions(whole, data).outputs.logits[:64]
    session = onnxruntime.InferenceSession(mo.export_onnx(whole, data, tmp_path / "p.onnx"))
    for batch in (1, 7, 64):
        said = [session.run(None, {"inputs": x.numpy()})[0] for x in data.val.inputs[:64].split(batch)]
        np.testing.assert_allclose(np.concatenate(said), expected.numpy(), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_integer_members_and_models_of_all_labels(bits: int) -> None:
    """A full model sorts by sums and answers within a group, on integers."""
    w = mo.workload("digits")
    pool = [mo.Quantize(bits=bits).apply(mo.baseline("digits", name), w) for name in ("mlp", "cnn")]
    whole = mo.Pipeline(threshold=0.7).apply(pool, w)
    fast = mo.compile(whole, w)
    assert "int8" in fast.label or "4-bit" in fast.label
    kept = mo.predictions(whole, w).outputs.logits[:50]
    torch.testing.assert_close(predict(fast, w.val.inputs[:50], batch=1), kept, atol=2e-2, rtol=1e-2)


def branches(graph: onnx.GraphProto) -> list[int]:
    """Products in the branch that each `If` enters where it is needed."""
    found = []
    for node in graph.node:
        if node.op_type == "If":
            [then] = [a.g for a in node.attribute if a.name == "then_branch"]
            found.append(sum(inner.op_type in ("Gemm", "Conv") for inner in then.node))
    return found


def test_maps_and_experts_lie_in_branches(tmp_path: Path) -> None:
    """The denoiser's three convolutions, then four layers of each expert; judge and route run for everyone."""
    chain = ("quality", "repair", "groups", "experts")
    data = inputs_of("digits", chain)
    whole = mo.Pipeline(stages=chain).apply(models_of(data, chain), data)
    graph = onnx.load(mo.export_onnx(whole, data, tmp_path / "p.onnx")).graph
    assert branches(graph) == [3, 4, 4, 4]
    assert sum(node.op_type in ("Gemm", "Conv") for node in graph.node) == 2 + 4


def test_one_session_serves_every_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    data = mo.workload("digits")
    pool = models_of(data, ("groups", "experts"))
    mo.measure(mo.Pipeline(threshold=0.31).apply(pool, data), data)

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a second session was made")

    monkeypatch.setattr("modelopt_core.runtime.inference._session", refuse)
    mo.measure(mo.Pipeline(threshold=0.93).apply(pool, data), data)


def test_what_branches_inside_has_no_graph(tmp_path: Path) -> None:
    w = mo.workload("digits")
    cnn, mlp = (mo.baseline("digits", name) for name in ("cnn", "mlp"))
    whole = mo.Pipeline().apply([mlp, mo.Cascade(threshold=0.9).apply([mlp, cnn], w)], w)
    with pytest.raises(ModelOptError, match=r"Pipeline chooses for every .* no graph for it here; export the models"):
        mo.export_onnx(whole, w, tmp_path / "p.onnx")
    kept = mo.predictions(whole, w).outputs.logits[:30]
    torch.testing.assert_close(predict(mo.compile(whole, w), w.val.inputs[:30], batch=1), kept, atol=2e-3, rtol=1e-3)
