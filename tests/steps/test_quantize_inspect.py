"""Where the error is: by hand, and the sums that must hold."""

import math

import numpy as np
import pytest
import torch

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.steps.quantize import Scheme
from modelopt_core.steps.quantize.inspect import affine_form, layer_errors, observed, snr_db


def test_signal_to_noise_by_hand():
    assert snr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5])) == pytest.approx(20.0)
    assert snr_db(torch.ones(2), torch.ones(2)) == math.inf


def test_the_articles_form_by_hand():
    """Q = z = 127.5: −1, 0 and 1 become −0.5, 127.5 and 255.5 — half goes to even — and lose at most half a step."""
    y = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    codes, back = affine_form(y, 127.5, 127.5)
    assert codes.tolist() == [-0.5, 127.5, 191.5, 255.5]
    assert (back - y).abs().max() <= 0.5 / 127.5 + 1e-7


@pytest.mark.parametrize(
    "given", [{"bits": 2}, {"bits": 3, "scheme": "codebook"}, {"bits": 8, "layer_bits": {"fc2": 32}}], ids=str
)
def test_rows_say_what_the_file_and_the_tensors_say(given):
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    small = mo.Quantize(**given).apply(model, w)
    sizes = {row.name: row.size_bytes for row in mopt.sizes(small).rows}
    for row in layer_errors(model, small):
        before, after = (m.get_submodule(row.layer).weight.detach().double().numpy() for m in (model, small))
        assert row.size_bytes == sizes[f"{row.layer}.weight"]
        noise = ((before - after) ** 2).sum()
        assert row.snr_db == (pytest.approx(10 * np.log10((before**2).sum() / noise), abs=1e-3) if noise else math.inf)
        assert 0 <= row.clipped <= 1
        total = sum(float((model.get_parameter(n) - p).detach().square().sum()) for n, p in small.named_parameters())
        assert row.share == pytest.approx(noise / total, abs=1e-5)
        assert row.bits <= 8 or row.layer == "fc2"


def test_a_layer_that_loses_a_channel():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    small = mo.Quantize(bits=2, per="tensor").apply(model, w)
    row = layer_errors(model, small)[0]
    assert row.dead == int((small.fc1.weight == 0).all(dim=1).sum())


def test_observers_on_one_layer():
    model = mo.baseline("digits", "mlp")
    found = observed(model, "fc1", Scheme(3))
    assert list(found) == list(mo.OBSERVERS)
    assert found["mse"] >= max(found.values()) - 1e-6, (
        "it minimises that very error, over shares that include the others'"
    )
    with pytest.raises(mo.ModelOptError, match="unknown layer 'fc9'"):
        observed(model, "fc9", Scheme(3))
