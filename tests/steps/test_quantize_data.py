"""Roundings that look at data: a 2×2 case of GPTQ by hand, PyTorch's unfold and SciPy's solver as references."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import lstsq
from torch import nn

import modelopt_core as mo
from modelopt_core.machine.events import silent
from modelopt_core.steps.quantize import RoundingContext, adaround, calibrate, gptq


def context(weight, inputs, scale=1.0, levels=7, seed=0, report=silent):
    ones = torch.ones(len(weight), 1)
    middle = ones * (levels - 1) / 2
    return RoundingContext(weight, ones * scale, middle, levels, torch.Generator().manual_seed(seed), report, inputs)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output_error(c, codes):
    return float(((c.weight - (codes - c.zero_point) * c.scale) @ c.inputs.T).square().sum())


def test_gptq_two_by_two_by_hand():
    """Two inputs that are nearly always equal: x = (1, 1) twice, (2, 1) once, so H ∝ (6, 4; 4, 3).

    w = (0.4, 0.4): the input with the larger H goes first: 0.4 → 0, error 0.4. The best second weight is then
    0.4 + 0.4 · 4/3 = 0.933 → 1. To nearest, both would be 0 and the output 0.8 off.
    """
    inputs = torch.tensor([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    c = context(torch.tensor([[0.4, 0.4]]), inputs)
    assert (gptq(c) - 3).tolist() == [[0.0, 1.0]]
    assert (mo.ROUNDINGS["nearest"](c) - 3).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("rows", "columns"), [(3, 6), (2, 32), (2, 33), (2, 70)])
def test_gptq_is_the_plain_algorithm(rows, columns):
    """The paper's algorithm without blocks and without a Cholesky factor: after a column is rounded, the least squares
    solution for the columns that are left, in float64 by SciPy. Also where later blocks must learn of the errors."""
    weight, n = drawn(rows, columns), 4 * columns
    inputs = drawn(n, columns, seed=1) @ drawn(columns, columns, seed=2)
    c = context(weight, inputs, scale=0.5, levels=15)
    damped = np.vstack([inputs.numpy(), np.sqrt(0.01 * n * float(inputs.square().mean())) * np.eye(columns)])
    order = np.argsort(-(inputs.numpy() ** 2).sum(0))
    expected = np.zeros((rows, columns))
    for row in range(rows):
        target = damped @ weight[row].double().numpy()
        for i, column in enumerate(order):
            left = order[i:]
            best = lstsq(damped[:, left], target)[0]
            q = np.clip(np.round(best[0] / 0.5 + 7), 0, 14)
            expected[row, column] = q
            target -= damped[:, column] * (q - 7) * 0.5
    assert gptq(c).numpy().tolist() == expected.tolist()


def test_gptq_tells_the_next_block_by_hand():
    """33 equal inputs of weight 0.45: of the first 32, 14.4 together, 14 become 1; the 0.4 that is left makes the last
    0.85, and so 1. Alone it would be 0."""
    codes = gptq(context(torch.full((1, 33), 0.45), torch.ones(8, 33)))[0] - 3
    assert (codes[:32].sum(), codes[32]) == (14, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (7, 1), (5, 300)])
@pytest.mark.parametrize("rounding", [gptq, adaround])
def test_inputs_that_are_zero_or_one_example(rounding, shape, monkeypatch):
    monkeypatch.setattr(sys.modules["modelopt_core.steps.quantize.adaround"], "STEPS", 20)
    for inputs in (torch.zeros(4, shape[1]), torch.ones(1, shape[1]), drawn(1, shape[1])):
        codes = rounding(context(drawn(*shape), inputs, 0.4))
        assert codes.shape == shape
        assert torch.equal(codes, codes.round().clamp(0, 6))


def test_roundings_that_look_at_data_keep_outputs_better():
    """Correlated inputs, the case that they are made for: over four draws the sum of output errors is smaller."""
    errors = {"nearest": 0.0, "adaround": 0.0, "gptq": 0.0}
    for seed in range(4):
        c = context(drawn(6, 12, seed=seed), drawn(64, 12, seed=99) @ drawn(12, 12, seed=98), 0.8, seed=seed)
        for name in errors:
            errors[name] += output_error(c, mo.ROUNDINGS[name](c))
    assert errors["gptq"] < errors["nearest"]
    assert errors["adaround"] < errors["nearest"]


def test_adaround_goes_up_or_down_and_tells_how_far_it_is():
    said = []
    c = context(drawn(60, 400), drawn(256, 400, seed=1), 0.5, report=said.append)
    codes = adaround(c)
    exact = (c.weight / c.scale + c.zero_point).clamp(0, 6)
    assert ((codes - exact).abs() <= 1).all()
    assert torch.equal(codes, adaround(replace(c, generator=torch.Generator().manual_seed(0))))
    assert all((event.phase, event.total) == ("adaround", 400) for event in said)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "gptq", "adaround"])
def test_what_lies_beyond_the_grid_goes_to_its_end(rounding):
    """Seven points, −3 … 3: weights of 9 and −9, and of 3 and −3, get the last codes; none gets the code 7."""
    c = context(torch.tensor([[9.0, 3.0, -9.0, -3.0]]), drawn(20, 4))
    codes = mo.ROUNDINGS[rounding](c)
    assert (codes.min(), codes.max()) == (0, 6)
    assert codes[0, [0, 2]].tolist() == [6, 0]


def test_adaround_of_a_model_tells_how_far_it_is_over_all_layers(monkeypatch):
    """Three layers of two steps each, a report a step: 1 to 6 of 6."""
    for name, value in (("STEPS", 2), ("REPORT_EVERY_S", 0.0)):
        monkeypatch.setattr(sys.modules["modelopt_core.steps.quantize.adaround"], name, value)
    said, step = [], mo.Quantize(rounding="adaround", examples=7)
    step.apply(mo.baseline("digits", "mlp"), mo.workload("digits"), report=said.append)
    assert [(event.step, event.total) for event in said] == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 0, 1), ((2, 3), 2, (1, 0), (1, 2)), (1, 1, 0, 1)]
)
def test_patches_are_pytorchs(kernel, stride, padding, dilation, groups):
    conv = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups, bias=False)
    x = drawn(3, 4, 7, 8)
    rows = calibrate.rows(conv, x, 0)  # (groups, M, n)
    unfolded = nn.functional.unfold(x, conv.kernel_size, dilation, padding, stride)  # (3, 4 · kernel, positions)
    assert torch.equal(torch.cat(list(rows), dim=1), unfolded.transpose(1, 2).flatten(0, 1))
    outputs = torch.cat([r @ w.flatten(1).T for r, w in zip(rows, conv.weight.chunk(groups), strict=True)], dim=1)
    torch.testing.assert_close(outputs, conv(x).movedim(1, -1).flatten(0, 2))


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(2, 3, 3, padding="same", padding_mode="circular"), nn.Conv3d(2, 3, 2), nn.Linear(2, 3)]
)
def test_rows_give_the_outputs_of_any_layer(layer):
    x = drawn(2, 5, 2) if isinstance(layer, nn.Linear) else drawn(2, 2, *(5 for _ in layer.kernel_size))
    y = layer(x) if isinstance(layer, nn.Linear) else layer(x).movedim(1, -1)
    (rows,) = calibrate.rows(layer, x, 0)
    torch.testing.assert_close(rows @ layer.weight.flatten(1).T + layer.bias, y.flatten(0, -2))


def test_rows_are_drawn_where_there_are_many():
    x = torch.arange(calibrate.MOST_ROWS + 5.0)[:, None]
    (rows,) = calibrate.rows(nn.Linear(1, 1), x, 3)
    assert len(rows) == len(rows.unique()) == calibrate.MOST_ROWS
    assert torch.equal(rows, calibrate.rows(nn.Linear(1, 1), x, 3)[0])


def test_compensation_is_ridge_regression():
    """SciPy's least squares, with the ridge as rows of their own; the same inputs leave the weight as it was."""
    weight, before = drawn(3, 5), drawn(30, 5, seed=1)
    now = before + 0.3 * drawn(30, 5, seed=2)
    assert calibrate.compensated(weight, before[None], before[None]) is weight
    ridge = np.sqrt(0.1 * len(now) * float(now.square().mean())) * np.eye(5)
    target = np.vstack([(before @ weight.T).numpy(), ridge @ weight.T.numpy()])
    expected = lstsq(np.vstack([now.numpy(), ridge]), target)[0].T
    torch.testing.assert_close(
        calibrate.compensated(weight, before[None], now[None]).double(),
        torch.tensor(expected).double(),
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("pair", [("digits", "cnn"), ("docstrings", "bag")], ids="/".join)
def test_only_training_examples_are_looked_at(pair):
    """val and test can be anything, the seed draws other training examples, and so does their number."""
    w, model = mo.workload(pair[0]), mo.baseline(*pair)
    step = mo.Quantize(bits=2, rounding="gptq", examples=64)
    elsewhere = replace(
        w,
        val=replace(w.val, inputs=w.val.inputs * 0),
        test=replace(w.test, inputs=w.test.inputs * 0),
        data_hash="other",
    )
    first, other = step.apply(model, w), step.apply(model, elsewhere)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    for changed in (step.apply(model, w, seed=1), step.changed(examples=65).apply(model, w)):
        assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), changed.parameters(), strict=True))


@pytest.mark.parametrize("looks", [{"rounding": "gptq"}, {"recovery": "bias"}, {"activations": 4}], ids=str)
@pytest.mark.parametrize("examples", [1, 2, 65536])
def test_few_and_more_examples_than_there_are(examples, looks):
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    small = mo.Quantize(bits=3, examples=examples, **looks).apply(model, w)
    assert all(p.isfinite().all() for p in small.parameters())
    assert small(w.val.inputs[:3]).isfinite().all()


def test_depthwise_convolutions_are_rounded_channel_by_channel():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 10)
    ).eval()
    w, before = mo.workload("digits"), copy.deepcopy(net.state_dict())
    small = mo.Quantize(bits=4, rounding="gptq", examples=32).apply(net, w)
    assert all(torch.equal(net.state_dict()[n], t) for n, t in before.items())
    assert (small[2].weight - net[2].weight).abs().max() < 2 * small[2].weight_scale.max()


def test_which_settings_last():
    digits = mo.workload("digits")
    assert mo.Quantize(rounding="adaround").lasts(digits)
    assert not mo.Quantize(rounding="adaround", scheme="codebook").lasts(digits)


@pytest.mark.parametrize("looks", [{"rounding": "gptq"}, {"recovery": "bias"}, {"activations": 4}], ids=str)
def test_looking_at_many_examples_lasts(looks):
    digits = mo.workload("digits")
    steps = [mo.Quantize(examples=n, **looks) for n in (1, 512, 513, 65536)]
    assert [step.lasts(digits) for step in steps] == [False, False, True, True]
    assert not mo.Quantize(examples=65536).lasts(digits)  # nothing looks at them


def test_no_examples_are_one_line():
    with pytest.raises(mo.ModelOptError, match="examples=0 is not allowed; examples must be a whole number ≥ 1"):
        mo.Quantize(examples=0)
