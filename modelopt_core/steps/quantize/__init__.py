"""Quantization: fewer bits per weight.

Every weight becomes a whole number q = round(w / scale + zero_point) of `bits` bits, and is read back as
(q − zero_point) · scale. An observer chooses the grid, a rounding chooses the point on it.

`observers` and `roundings` are the plug points; `gptq` and `adaround` are roundings that look at data, which
`calibrate` gathers. `codebook` finds shared values instead of a grid. `tensor` brings them together for one weight,
`quantized_layers` for all of them, between `prepare` and training; `quantize` is the technique as data, `mixed` finds
bits for each layer.
"""

from modelopt_core.steps.quantize.adaround import adaround
from modelopt_core.steps.quantize.gptq import gptq
from modelopt_core.steps.quantize.mixed import WIDTHS, Width, allocate, widths
from modelopt_core.steps.quantize.observers import OBSERVERS
from modelopt_core.steps.quantize.quantize import Quantize
from modelopt_core.steps.quantize.roundings import ROUNDINGS, RoundingContext
from modelopt_core.steps.quantize.tensor import Scheme, quantize_tensor

__all__ = [
    "OBSERVERS", "ROUNDINGS", "WIDTHS", "Quantize", "RoundingContext", "Scheme", "Width", "adaround", "allocate",
    "gptq", "quantize_tensor", "widths",
]  # fmt: skip
