"""The step: how many bits, which points, and how a weight finds its own."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import nn

from modelopt_core.errors import unknown
from modelopt_core.machine.events import Report
from modelopt_core.steps import checks
from modelopt_core.steps.base import STEPS, Knob, Named, Transform, When
from modelopt_core.steps.checks import BITS as BITS
from modelopt_core.steps.knob import Doublings
from modelopt_core.steps.quantize.observers import OBSERVERS
from modelopt_core.steps.quantize.prepare import equalise, fold_norms
from modelopt_core.steps.quantize.quantized_layers import quantize_inputs, quantize_layers, weighted
from modelopt_core.steps.quantize.roundings import ROUNDINGS
from modelopt_core.steps.quantize.tensor import Scheme
from modelopt_core.training.loop import fit
from modelopt_core.training.on_points import on_points
from modelopt_core.workloads.workload import Workload

EVEN = ("symmetric", "affine")  # schemes whose points an observer finds
TRAINED = ("train", "lsq")  # recoveries that do
QUICK = 512  # examples that `gptq` looks at within a second, in the largest of the shipped models


@STEPS.register("Quantize")
class Quantize(Transform):
    """Store every weight as a whole number of `bits` bits on a grid of its own."""

    sentence: ClassVar[str] = "Store each weight in fewer bits. How coarse can the grid be before the answers change?"
    formula: ClassVar[str] = "q = round(w / s + z)"

    bits: Annotated[int, Knob(1, 8, 1, "b", beyond=(16,)), AfterValidator(checks.bits)] = Field(
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

    examples: Annotated[int, Doublings(1, 65536)] = Field(
        512,
        ge=1,
        le=65536,
        title="Examples",
        description="Training examples for what looks at data.",
    )
    prepare: Literal["none", "fold", "equalise"] = Field(
        "none",
        title="First",
        description="Fold batch norms into the weights, and also share every channel's range with the next layer.",
    )
    activations: Annotated[int, AfterValidator(checks.activation_bits)] = Field(
        0,
        ge=0,
        le=8,
        title="Activations",
        description="Bits of what layers read, 2 to 8; 0 leaves that to the runtime: 8 where it has integer kernels.",
        json_schema_extra={"enum": [0, *range(2, 9)]},
    )
    recovery: Literal["none", "bias", "train", "lsq"] = Field(
        "none",
        title="Then",
        description="Give every layer its mean outputs back, train with rounded weights, or train step sizes as well.",
    )
    epochs: Annotated[int, When("recovery", *TRAINED)] = Field(
        3, ge=1, le=1000, title="Epochs", description="Passes over the training split."
    )
    lr: Annotated[float, When("recovery", *TRAINED)] = Field(
        1e-3, gt=0, le=1e9, title="Learning rate", description="First step size; falls to zero."
    )
    layer_bits: Annotated[
        tuple[tuple[str, int], ...], BeforeValidator(checks.pairs), AfterValidator(checks.layer_bits)
    ] = Field(
        (), title="Bits per layer", description="(layer, bits) pairs: these layers have their own; 32 leaves floats."
    )

    def lasts(self, workload: Workload) -> bool:
        """AdaRound learns, training trains, and looking at more than QUICK examples takes over a second."""
        rounding = ROUNDINGS[self.rounding if self.scheme in EVEN else "nearest"]
        looks = self.activations or self.recovery == "bias" or rounding["needs_data"]
        return bool(self.recovery in TRAINED or rounding["iterative"] or (looks and self.examples > QUICK))

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        layers, seed, own = dict(weighted(model)), generator.initial_seed(), dict(self.layer_bits)
        for name in own:
            if name not in layers:
                raise unknown("layer", name, layers)
        if self.prepare != "none":
            fold_norms(model)
        if self.prepare == "equalise":
            equalise(model)
        floats = {name: layer.get_parameter("weight").detach().clone() for name, layer in layers.items()}
        scheme = Scheme(self.bits, self.scheme, self.per, self.observer, self.group)
        corrected = self.recovery == "bias"
        quantize_layers(model, workload, scheme, own, self.rounding, self.examples, corrected, generator, report)
        if self.activations:
            quantize_inputs(model, workload, self.activations, self.observer, self.examples, seed)
        if self.recovery in TRAINED:
            ready = on_points(model, self.recovery == "lsq", floats)
            return fit(ready, workload, epochs=self.epochs, lr=self.lr, keep_zeros=True, seed=seed, report=report)
        return model
