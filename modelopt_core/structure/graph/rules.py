"""What each operator does to channels, in two tables: functions and methods by name, layers by class.

An operator that no table names is `unknown`: the channels that come in stay.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from modelopt_core.structure.graph.call import Call, Spaces
from modelopt_core.structure.graph.layer_rules import (
    attention,
    channel_norm,
    convolution,
    embedding,
    group_norm,
    linear,
    prelu,
)
from modelopt_core.structure.graph.operator_rules import (
    combine,
    concatenate,
    divide,
    flatten,
    keep,
    layer_norm,
    move,
    pad,
    pool,
    query,
    reduce,
    reshape,
    softmax,
    unknown,
)

Rule = Callable[[Call], Spaces]

CALLS: dict[str, Rule] = {
    name: rule
    for rule, names in {
        keep: "relu relu6 gelu silu mish elu leaky_relu hardtanh hardswish hardsigmoid sigmoid tanh softplus abs neg "
        "exp sqrt square clamp clamp_min clamp_max dropout dropout1d dropout2d dropout3d contiguous float clone detach "
        "stochastic_depth",
        pool: "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d interpolate",
        combine: "add iadd sub isub mul imul truediv div maximum minimum pow masked_fill",
        concatenate: "cat concat concatenate",
        divide: "chunk split",
        move: "transpose permute swapaxes movedim unsqueeze getitem roll",
        flatten: "flatten",
        reshape: "view reshape expand",
        reduce: "mean sum amax amin max",
        pad: "pad",
        softmax: "softmax log_softmax",
        layer_norm: "layer_norm",
        query: "size dim numel getattr eq ne _assert",
    }.items()
    for name in names.split()
}

LAYERS: dict[type[nn.Module], Rule] = {
    layer: rule
    for rule, kinds in {
        keep: (
            nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.Hardswish, nn.Hardsigmoid,
            nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
        ),
        pool: (
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample,
        ),
        flatten: (nn.Flatten,),
        prelu: (nn.PReLU,),
        softmax: (nn.Softmax, nn.LogSoftmax),
        linear: (nn.Linear,),
        convolution: (nn.Conv1d, nn.Conv2d, nn.Conv3d),
        embedding: (nn.Embedding,),
        channel_norm: (
            nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
        ),
        group_norm: (nn.GroupNorm,),
        layer_norm: (nn.LayerNorm, nn.RMSNorm),
        attention: (nn.MultiheadAttention,),
    }.items()
    for layer in kinds
}  # fmt: skip


def rule_of_call(call: Call) -> Rule:
    """The rule of a function or a method of torch; a function of that name from elsewhere is unknown."""
    target = call.node.target
    home = "torch" if isinstance(target, str) else str(getattr(target, "__module__", "")).split(".")[0]
    return CALLS.get(call.name, unknown) if home in ("torch", "torchvision", "_operator", "builtins") else unknown


def rule_of_layer(layer: nn.Module) -> Rule:
    """The rule of a layer's class, or of the nearest class that it derives from."""
    if getattr(layer, "weight", None) is not None and "weight" not in layer._parameters:
        return unknown  # computed at every call from other parameters
    return next((LAYERS[kind] for kind in type(layer).__mro__ if kind in LAYERS), unknown)
