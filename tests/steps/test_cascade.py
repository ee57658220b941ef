"""Cascades: who leaves where, by hand and by brute force; the module that skips, and what it is measured at."""

import itertools
import math

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import modelopt_core as mo
from modelopt_core.measuring.measurement import compiled
from modelopt_core.models.spec import spec_of
from modelopt_core.runtime.inference import predict
from modelopt_core.runtime.onnx_export import onnx_bytes
from modelopt_core.steps.cascade import CONFIDENCES, best_thresholds, flow, front
from modelopt_core.steps.cascade.confidences import stops
from modelopt_core.structure.layer_table import layers, macs

# Three stages, four examples.
SURE = torch.tensor([[0.9, 0.4, 0.6, 0.2], [0.5, 0.8, 0.3, 0.6], [0.1, 0.1, 0.1, 0.1]])
RIGHT = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
COSTS = (1.0, 10.0, 100.0)


@pytest.fixture(scope="module")
def w():
    return mo.workload("digits")


@pytest.fixture(scope="module")
def pool():
    return [mo.baseline("digits", "mlp"), mo.baseline("digits", "cnn")]


def drawn(stages: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences (S, N) with ties, and later stages that are right more often."""
    generator = torch.Generator().manual_seed(seed)
    sure = (torch.rand(stages, n, generator=generator) * 8).round() / 8
    chance = 0.5 + 0.4 * torch.arange(stages)[:, None] / stages
    return sure, (torch.rand(stages, n, generator=generator) < chance).double()


def test_flow_by_hand():
    """At 0.6 and 0.6: the first and the third leave at once, the second and the fourth at the second stage."""
    found = flow(SURE, RIGHT, (0.6, 0.6))
    assert found.at.tolist() == [0, 1, 0, 1]
    assert (found.reached, found.left) == ((4, 2, 0), (2, 2, 0))
    assert found.stage_scores == (0.5, 0.5, 0.0)
    assert found.scores.tolist() == [1, 1, 0, 0]
    assert found.cost(COSTS) == (4 * 1 + 2 * 10) / 4
    assert found.early_and_wrong().tolist() == [2, 3]


def test_nobody_leaves_early_at_thresholds_nobody_reaches():
    found = flow(SURE, RIGHT, (0.95, 0.95))
    assert (found.reached, found.left) == ((4, 4, 4), (0, 0, 4))
    assert found.cost(COSTS) == 111
    assert len(found.early_and_wrong()) == 0


def test_best_thresholds_by_hand():
    """All four right: the first example may leave at once, the second at the second stage; 1 + 3/4·10 + 2/4·100."""
    found = best_thresholds(SURE, RIGHT, COSTS, score=1.0)
    assert (found.score, found.cost) == (1.0, 58.5)
    assert flow(SURE, RIGHT, found.thresholds).at.tolist() == [0, 1, 2, 2]
    assert best_thresholds(SURE, RIGHT, COSTS, cost=1.0).score == 0.25
    assert best_thresholds(SURE, RIGHT, COSTS, cost=8.5).score == 0.5


@pytest.mark.parametrize(("stages", "n"), [(2, 1), (2, 60), (3, 40), (4, 25)])
def test_best_thresholds_beat_every_setting_that_brute_force_tries(stages, n):
    sure, right = drawn(stages, n)
    costs = [float(10**s) for s in range(stages)]
    settings = itertools.product(*(sorted({0.0, *row.tolist()}) for row in sure[:-1]))
    found_at = [flow(sure, right, thresholds) for thresholds in settings]
    tried = [(float(found.scores.mean()), found.cost(costs)) for found in found_at]
    for target in {score for score, _ in tried}:
        found = best_thresholds(sure, right, costs, score=target)
        assert found.cost == pytest.approx(min(c for s, c in tried if s >= target - 1e-9))
        again = flow(sure, right, found.thresholds)
        assert (float(again.scores.mean()), again.cost(costs)) == pytest.approx((found.score, found.cost))
    for target in {cost for _, cost in tried}:
        found = best_thresholds(sure, right, costs, cost=target)
        assert found.score == pytest.approx(max(s for s, c in tried if c <= target + 1e-9))
    best = front(sure, right, costs)
    assert all(a.cost < b.cost and a.score < b.score for a, b in itertools.pairwise(best))
    assert not any(s > b.score + 1e-6 and c < b.cost - 1e-6 for s, c in tried for b in best)


def test_thresholds_that_cannot_be():
    with pytest.raises(
        mo.ModelOptError, match=r"no thresholds reach a score of 100.90%; these stages reach 100.00% at m"
    ):
        best_thresholds(SURE, RIGHT, COSTS, score=1.009)
    with pytest.raises(mo.ModelOptError, match="no thresholds cost 0.5 or less; the first stage alone costs 1"):
        best_thresholds(SURE, RIGHT, COSTS, cost=0.5)
    with pytest.raises(mo.ModelOptError, match="give a score to reach or a cost to keep to, and not both"):
        best_thresholds(SURE, RIGHT, COSTS)
    with pytest.raises(mo.ModelOptError, match="thresholds are searched for 2 to 4 stages, not for 5"):
        best_thresholds(*drawn(5, 3), [1.0] * 5, score=0.0)


def test_confidences_by_hand():
    said = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]).log()
    assert CONFIDENCES["max_prob"](said).tolist() == pytest.approx([0.7, 0.4])
    assert CONFIDENCES["margin"](said).tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    doubt = [-sum(p * math.log(p) for p in row) / math.log(3) for row in ((0.7, 0.2, 0.1), (0.4, 0.4, 0.2))]
    assert CONFIDENCES["entropy"](said).tolist() == pytest.approx([1 - d for d in doubt], abs=1e-6)


class Counted(nn.Module):
    """Counts the examples that it is asked about."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits, self.asked = nn.Parameter(torch.tensor(logits)), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.asked += len(inputs)
        return inputs.flatten(1)[:, :1] * self.logits


def test_what_is_skipped_does_not_run(w):
    """The first stage is sure where the first pixel is bright, in eager and compiled for each member alike."""
    whole = mo.Cascade(threshold=0.9).apply([Counted([0.0, 9.0]), Counted([1.0, 0.0]), Counted([0.0, 0.0])], w)
    stages = whole.parts
    inputs = torch.zeros(5, 1, 8, 8)
    inputs[1, 0, 0, 0] = inputs[4, 0, 0, 0] = 1
    for stage in stages:
        stage.asked = 0
    with torch.no_grad():
        said = whole(inputs)
    assert [stage.asked for stage in stages] == [5, 3, 3]
    assert said.argmax(1)[[1, 4]].tolist() == [1, 1]
    assert torch.equal(whole(inputs[:0]), torch.zeros(0, 2))


@pytest.mark.parametrize("confidence", list(mo.CONFIDENCES))
@pytest.mark.parametrize("runtime", ["onnx", "eager"])
def test_module_runtimes_and_arithmetic_agree(confidence, runtime, w, pool):
    whole = mo.Cascade(threshold=0.8, confidence=confidence, calibrate=True).apply(pool, w)
    arithmetic = mo.predictions(whole, w, runtime=runtime).outputs.logits
    ran = predict(mo.compile(whole, w, runtime=runtime), w.val.inputs, batch=64)
    torch.testing.assert_close(ran, arithmetic, atol=1e-3, rtol=1e-3)
    one = mo.compile(whole, w, runtime=runtime)(w.val.inputs[:1])
    torch.testing.assert_close(one, arithmetic[:1], atol=1e-3, rtol=1e-3)


def test_ends_of_the_threshold(w, pool):
    """At 0 the first model answers everything; where nobody is sure enough, the last does."""
    first = mo.Cascade(threshold=0.0).apply(pool, w)
    assert torch.equal(mo.predictions(first, w).answers, mo.predictions(pool[0], w).answers)
    assert mo.measure(first, w).macs == mo.measure(pool[0], w).macs
    blind = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(blind[1].weight), nn.init.zeros_(blind[1].bias)
    last = mo.Cascade(threshold=1.0).apply([blind, pool[1]], w)
    assert torch.equal(mo.predictions(last, w).answers, mo.predictions(pool[1], w).answers)


def test_measured_at_the_mean_over_the_split(w, pool):
    """MACs are those of the stages that ran, averaged; the layers are all there."""
    step = mo.Cascade(threshold=0.95)
    whole = step.apply(pool, w)
    said = [mo.predictions(model, w) for model in pool]
    sure = torch.stack([s.outputs.log_probabilities.amax(1).exp() for s in said])
    found = flow(sure, torch.stack([s.scores for s in said]), step.limits(2))
    m = mo.measure(whole, w, baseline=pool[1])
    assert m.macs == round(found.cost([macs(model, w.example) for model in pool]))
    assert m.score.value == pytest.approx(float(found.scores.mean()))
    assert 0 < m.latency_ms.low <= m.latency_ms.value <= m.latency_ms.high < math.inf
    assert m.runtime == "ONNX Runtime float32"
    assert len(layers(whole, w.example)) == sum(len(layers(model, w.example)) for model in pool)


def test_a_threshold_per_stage(w, pool):
    three = [pool[0], *pool]
    assert mo.Cascade(thresholds=(0.5, 0.7)).apply(three, w).get_buffer("thresholds").tolist() == pytest.approx(
        [0.5, 0.7]
    )
    assert stops(SURE, (0.3, 1.0)).tolist() == [0, 0, 0, 2]


def test_temperatures_are_fitted_on_val(w, pool):
    whole = mo.Cascade(calibrate=True).apply(pool, w)
    fitted = mo.Cascade(calibrate=True).temperatures(pool, w)
    assert [float(gate.temperature) for gate in whole.members] == pytest.approx(fitted)
    assert all(t != 1 for t in fitted)


def test_it_saves(w, pool, tmp_path):
    whole = mo.Cascade(threshold=0.8, confidence="margin", calibrate=True).apply(pool, w)
    back = mo.load(mo.save(whole, tmp_path / "cascade.mopt"))
    assert spec_of(back) == spec_of(whole)
    with torch.no_grad():
        assert torch.equal(back(w.val.inputs), whole(w.val.inputs))


@pytest.mark.parametrize("confidence", list(mo.CONFIDENCES))
def test_one_onnx_graph_says_what_the_module_says(confidence, w, pool, tmp_path):
    """Against the module, run by ONNX's own reference, which knows nothing of us: all, some, one, none in doubt."""
    whole = mo.Cascade(thresholds=(0.8, 0.95), confidence=confidence).apply([*pool, pool[0]], w)
    path = mo.export_onnx(whole, w, tmp_path / "cascade.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    run = ReferenceEvaluator(str(path)).run
    with torch.no_grad():
        for inputs in (w.val.inputs[:40], w.val.inputs[:1], w.val.inputs[7:8]):
            for thresholds in ((0.8, 0.95), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0)):
                whole.thresholds.copy_(torch.tensor(thresholds))
                fed = {"inputs": inputs.numpy(), "thresholds": np.array(thresholds, np.float32)}
                np.testing.assert_allclose(run(None, fed)[0], whole(inputs).numpy(), atol=1e-4, rtol=1e-5)


def products(graph: onnx.GraphProto) -> int:
    return sum(node.op_type in ("Gemm", "MatMul", "Conv") for node in graph.node)


def test_a_later_stage_of_the_graph_lies_in_a_branch(w, pool, tmp_path):
    """What is not asked does not run: outside the `If` are the first stage's products only."""
    whole = mo.Cascade().apply(pool, w)
    graph = onnx.load(mo.export_onnx(whole, w, tmp_path / "cascade.onnx")).graph
    [choice] = [node for node in graph.node if node.op_type == "If"]
    [branch] = [a.g for a in choice.attribute if a.name == "then_branch"]
    alone = [onnx.load_from_string(onnx_bytes(part, w.example)).graph for part in pool]
    assert [products(graph), products(branch)] == [products(one) for one in alone]


def test_one_session_serves_all_thresholds(w, pool):
    """A slider of thresholds loads nothing again, and each setting keeps its own."""
    one, other = (mo.Cascade(threshold=t).apply(pool, w) for t in (0.0, 1.0))
    first, second = compiled(one, w), compiled(other, w)
    assert first.run.args[0] is second.run.args[0]
    with torch.no_grad():
        for call, model in ((first, one), (second, other), (first, one)):
            torch.testing.assert_close(call(w.val.inputs), model(w.val.inputs), atol=1e-4, rtol=1e-4)


def test_a_cascade_in_a_cascade_has_no_graph_and_still_runs(w, pool):
    inner = mo.Cascade(threshold=0.9).apply(pool, w)
    whole = mo.Cascade(threshold=0.9).apply([pool[0], inner], w)
    with pytest.raises(mo.ModelOptError, match=r"Cascade chooses for every .* no graph for it here; export the models"):
        onnx_bytes(whole, w.example)
    with torch.no_grad():
        torch.testing.assert_close(mo.compile(whole, w)(w.val.inputs), whole(w.val.inputs), atol=1e-4, rtol=1e-4)


def test_steps_stack_on_it(w, pool):
    """Prune before, not after; weights may go and be rounded after; it trains."""
    stages = mo.run((mo.Prune(ratio=0.3), mo.Cascade(), mo.Quantize(bits=8)), pool, w)
    assert "int8" in stages[-1].measurement.runtime
    whole = mo.Cascade().apply(pool, w)
    with pytest.raises(mo.ModelOptError, match="Prune cannot trace Cascade; put Prune before Cascade"):
        mo.Prune(ratio=0.3).apply(whole, w)
    tuned = mo.Finetune(epochs=1).apply(mo.Prune(ratio=0.5, granularity="weight").apply(whole, w), w)
    assert np.isfinite(mo.measure(tuned, w).score.value)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (
            mo.Cascade(thresholds=(0.5, 0.5)),
            "Cascade has 2 thresholds, the pool 2 models; give 1, one for every model but",
        ),
        (mo.Cascade(), None),
    ],
)
def test_bad_pools(step, text, w, pool):
    if text:
        with pytest.raises(mo.ModelOptError, match=text):
            step.apply(pool, w)
    with pytest.raises(mo.ModelOptError, match="Cascade needs at least 2 models, the pool has 1"):
        step.apply(pool[:1], w)


def test_bad_settings():
    with pytest.raises(mo.ModelOptError, match="a threshold of 1.5 is not allowed; thresholds are numbers ≥ 0 and ≤ 1"):
        mo.Cascade(thresholds=(0.5, 1.5))
    with pytest.raises(mo.ModelOptError, match="threshold=2 is not allowed; threshold must be a number ≥ 0 and ≤ 1"):
        mo.Cascade(threshold=2)
    with pytest.raises(
        mo.ModelOptError, match="unknown confidence 'maxprob'; choose from entropy, margin, max_prob|did you"
    ):
        mo.Cascade(confidence="maxprob")
