"""What PyTorch simulates against what the runtime runs."""

import pytest

import modelopt_core as mo


@pytest.mark.parametrize(
    ("given", "runtime", "integer"),
    [
        ({"bits": 8}, "ONNX Runtime int8", True),
        ({"bits": 4}, "ONNX Runtime 4-bit", True),
        ({"bits": 3}, "ONNX Runtime float32", False),
        ({"bits": 8, "activations": 6}, "ONNX Runtime int8", True),
    ],
)
def test_answers_agree(given, runtime, integer):
    w = mo.workload("digits")
    small = mo.Quantize(**given).apply(mo.baseline("digits", "mlp"), w)
    found = mo.agreement(small, w)
    assert (found.runtime, found.integer, found.share.n) == (runtime, integer, len(w.val))
    same = mo.predictions(small, w).answers == mo.predictions(small, w, runtime="eager").answers
    assert found.share.value == pytest.approx(float(same.float().mean()))
    assert found.share.value > 0.98
    assert (found.largest < 1e-5) == (not integer)
    assert found.before == pytest.approx(found.after, abs=0.02)
