"""The step: how many bits, which points, and how a weight finds its own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.events import Report
from modelopt_core.quantize.layers import check_finite, quantize_layers
from modelopt_core.quantize.observers import OBSERVERS
from modelopt_core.quantize.roundings import ROUNDINGS
from modelopt_core.quantize.tensor import Scheme
from modelopt_core.step import STEPS, Knob, Named, Transform, When
from modelopt_core.workload import Workload

BITS = (*range(1, 9), 16)
EVEN = ("symmetric", "affine")  # schemes whose points an observer finds
DATA = tuple(name for name, rounding in ROUNDINGS.items() if rounding["needs_data"])


@STEPS.register("Quantize")
class Quantize(Transform):
    """Store every weight as a whole number of `bits` bits on a grid of its own."""

    sentence: ClassVar[str] = "Store each weight in fewer bits. How coarse can the grid be before the answers change?"
    formula: ClassVar[str] = "q = round(w / s + z)"

    bits: Annotated[int, Knob(1, 8, 1, "b")] = Field(
        8, title="Bits", description="Bits per weight.", json_schema_extra={"enum": list(BITS)}
    )
    scheme: Literal["symmetric", "affine", "codebook"] = Field(
        "symmetric",
        title="Grid",
        description="Centred on zero; from the smallest weight to the largest; or shared values, found by k-means.",
    )
    per: Annotated[Literal["tensor", "channel", "group"], When("scheme", *EVEN)] = Field(
        "channel",
        title="One grid per",
        description="One scale for the whole tensor, for each output channel, or for every few weights in a row of it.",
    )
    group: Annotated[int, When("per", "group")] = Field(
        32, ge=2, le=65536, title="Group", description="Weights that share a scale; the last of a row may be fewer."
    )
    observer: Annotated[str, Named(OBSERVERS), When("scheme", *EVEN)] = Field(
        "absmax", title="Observer", description="How the range of the grid is chosen."
    )
    rounding: Annotated[str, Named(ROUNDINGS), When("scheme", *EVEN)] = Field(
        "nearest", title="Rounding", description="Which grid point a weight goes to."
    )

    examples: Annotated[int, When("rounding", *DATA)] = Field(
        512, ge=1, le=65536, title="Examples", description="Training examples that the rounding looks at."
    )

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, value: int) -> int:
        if value not in BITS:
            raise ModelOptError(
                f"Quantize: bits={value} is not allowed; bits must be a whole number ≥ 1 and ≤ 8, or 16"
            )
        return value

    @property
    def lasts(self) -> bool:
        """AdaRound learns."""
        return self.scheme in EVEN and bool(ROUNDINGS[self.rounding]["iterative"])

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        scheme = Scheme(self.bits, self.scheme, self.per, self.observer, self.group)
        needs_data = bool(ROUNDINGS[self.rounding]["needs_data"]) and self.scheme in EVEN
        check_finite(model)
        examples = self.examples if needs_data else 0
        quantize_layers(model, workload, scheme, self.rounding, examples, generator, report)
        return model
