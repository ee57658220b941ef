"""Measuring: the numbers against scikit-learn, the file on disk, PyTorch; labels say how each was had."""

import sys

import pytest
import torch
from sklearn.metrics import accuracy_score

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.runtime import latency


@pytest.fixture
def bench():
    return mo.workload("digits"), mo.baseline("digits", "cnn")


def test_score_equals_scikit_learn_and_eager_pytorch(bench):
    w, model = bench
    with torch.no_grad():
        answers = model(w.val.inputs).argmax(dim=1)
    for runtime in ("onnx", "eager"):
        said = mo.predictions(model, w, runtime=runtime)
        assert torch.equal(said.answers, answers)
        score = mo.measure(model, w, runtime=runtime).score
        assert score.value == pytest.approx(accuracy_score(w.val.targets, answers))
        assert score.n == len(w.val)


def test_size_is_the_file_that_save_writes_and_load_reads_back(bench, tmp_path):
    w, model = bench
    for step in (mo.Prune(ratio=0.5), mo.Prune(granularity="weight"), mo.Quantize(bits=3)):
        small = step.apply(model, w)
        mo.save(small, tmp_path / "small.mopt")
        found = mo.measure(small, w, baseline=model)
        assert found.size_bytes == (tmp_path / "small.mopt").stat().st_size
        assert found.entropy_bytes <= found.size_bytes
        again = mo.load(tmp_path / "small.mopt")
        assert torch.equal(mo.predictions(again, w).outputs.logits, mo.predictions(small, w).outputs.logits)


@pytest.mark.parametrize(
    ("step", "how"),
    [
        (mo.Prune(ratio=0.5), "measured"),
        (mo.Prune(ratio=0.0, granularity="weight"), "measured"),
        (mo.Prune(ratio=0.5, granularity="weight"), "simulated"),
        (mo.Quantize(bits=4), "simulated"),
        (mo.Quantize(bits=8), "measured"),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_labels_are_honest(bench, step, how):
    w, model = bench
    found = mo.measure(step.apply(model, w), w, baseline=model)
    assert found.score.how == how
    assert found.latency_ms.how == "measured"
    assert ("int8" in found.runtime) == (step == mo.Quantize(bits=8))


def test_nothing_is_evaluated_twice(bench, monkeypatch):
    w, model = bench
    small = mo.Prune(ratio=0.21).apply(model, w)
    first = mo.measure(small, w, baseline=model)
    module = sys.modules["modelopt_core.measuring.measurement"]
    monkeypatch.setattr(module, "predict", None)
    monkeypatch.setattr(module, "compile", None)
    assert mo.measure(small, w, baseline=model) is first
    assert mo.compare(model, small, w).changed is not None


def test_a_trained_on_copy_is_measured_anew(bench):
    w, model = bench
    before = mo.measure(model, w).score.value
    with torch.no_grad():
        model.fc2.weight.zero_()
    assert mo.measure(model, w).score.value < before


def test_compare_by_hand(bench):
    w, model = bench
    small = mo.Prune(ratio=0.5).apply(model, w)
    found = mo.compare(model, small, w)
    was, now = mo.predictions(model, w), mo.predictions(small, w)
    assert found.flips.lost == int(((was.scores == 1) & (now.scores == 0)).sum())
    assert found.flips.won == int(((was.scores == 0) & (now.scores == 1)).sum())
    assert found.delta.value == pytest.approx(float(now.scores.mean() - was.scores.mean()))
    assert found.changed.tolist() == [i for i in range(len(w.val)) if was.answers[i] != now.answers[i]]


def test_interleaving_by_hand(monkeypatch):
    """A clock of our own: 2 ms against 4 and, every other time, 8: two to four times as fast."""
    now, calls = [0.0], []

    def call(name: str, *milliseconds: float) -> None:
        now[0] += milliseconds[calls.count(name) % len(milliseconds)] / 1e3
        calls.append(name)

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    timed = latency.interleave(lambda: call("a", 2), lambda: call("b", 8, 4), repeats=8, budget_s=1)
    assert (timed.latency_ms.value, timed.latency_ms.n, timed.baseline_ms.n) == (pytest.approx(2), 8, 8)
    assert (timed.speedup.low, timed.speedup.value, timed.speedup.high) == pytest.approx((2, 3, 4))
    assert calls[:4] == ["a", "b", "a", "b"], "interleaved"
    assert not timed.noisy
    assert latency.interleave(lambda: call("a", 2), lambda: call("b", 4), expected_ms=6).noisy


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"split": "valid"}, r"unknown split 'valid'; choose from train, val, test"),
        ({"runtime": "tensorrt"}, r"unknown runtime 'tensorrt'; choose from eager, onnx"),
        ({"device": "tpu"}, r"device 'tpu' is not there"),
    ],
)
def test_bad_input_is_one_line(bench, given, text):
    w, model = bench
    with pytest.raises(mo.ModelOptError, match=text):
        mo.measure(model, w, **given)
    assert STORE.peek("nothing") is None
