"""Learning for every weight whether it goes up or down."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.machine.events import Progress
from modelopt_core.steps.quantize.roundings import ROUNDINGS, RoundingContext

STEPS, BATCH, LR = 400, 128, 0.1
STRETCH = (-0.1, 1.1)  # a sigmoid stretched to it and cut off reaches 0 and 1
WARM_UP = 0.2  # share of the steps before weights are pushed to 0 or 1
SHARPNESS = (20.0, 2.0)  # exponent of the push, from first to last
PUSH = 1.0  # its weight: all of it together is at most the error that rounding to nearest makes
REPORT_EVERY_S = 0.5


@ROUNDINGS.register("adaround", needs_data=True, iterative=True)
def adaround(c: RoundingContext) -> Tensor:
    """Floor plus a learned 0 or 1 that keeps the layer's outputs: weight (R, n) -> codes (R, n), near the weight.

    Minimises ‖(W − Ŵ) X‖² + λ Σ (1 − |2h − 1|^β) over h = the stretched sigmoid of V, β falling from 20 to 2.

    Source: Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, arXiv 2004.10568.
    """
    if c.inputs is None:
        raise ModelOptError(
            "adaround learns from what reaches a layer, and no inputs were given; use 'nearest' without data"
        )
    exact = (c.weight / c.scale + c.zero_point).clamp(0, c.levels - 1)
    low = exact.floor().clamp(max=c.levels - 2)
    start = ((exact - low - STRETCH[0]) / (STRETCH[1] - STRETCH[0])).logit()
    with torch.enable_grad():
        up = _learned(c, low, start.requires_grad_())
    return low + up


def _learned(c: RoundingContext, low: Tensor, v: Tensor) -> Tensor:
    """(R, n) of 0 and 1, after STEPS steps of Adam."""
    assert c.inputs is not None
    update, last = torch.optim.Adam([v], LR, fused=True), time.monotonic()
    base = _error(c, torch.round(c.weight / c.scale + c.zero_point).clamp(0, c.levels - 1), c.inputs)
    push = PUSH * float(base) / v.numel()
    for step in range(STEPS):
        cores.pause()
        inputs = c.inputs[torch.randint(len(c.inputs), (BATCH,), generator=c.generator)]
        h = _stretched(v)
        error = loss = _error(c, low + h, inputs)
        if step >= WARM_UP * STEPS:
            done = (step / STEPS - WARM_UP) / (1 - WARM_UP)
            beta = SHARPNESS[0] + done * (SHARPNESS[1] - SHARPNESS[0])
            loss = error + push * (1 - (2 * h - 1).abs() ** beta).sum()
        update.zero_grad()
        loss.backward()
        update.step()
        if time.monotonic() - last >= REPORT_EVERY_S or step == STEPS - 1:
            last = time.monotonic()
            c.report(Progress("adaround", step + 1, STEPS, {"error": float(error.detach()) / max(float(base), 1e-30)}))
    return (v.detach() > 0).to(low.dtype)


def _stretched(v: Tensor) -> Tensor:
    return (torch.sigmoid(v) * (STRETCH[1] - STRETCH[0]) + STRETCH[0]).clamp(0, 1)


def _error(c: RoundingContext, codes: Tensor, inputs: Tensor) -> Tensor:
    """Mean over inputs (N, n) of the squared error of the R outputs."""
    return ((c.weight - (c.kept(codes) - c.zero_point) * c.scale) @ inputs.T).square().sum() / len(inputs)
