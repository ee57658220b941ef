"""The walk over a traced graph that finds where each channel goes (the mechanics of channels.py).

Every tensor of the forward pass carries a `Space`: which group its channels belong to, on which axis they lie, and how
many features in a row each channel has become (a flattened 4×4 map: 16).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from modelopt_core.channels import CONVOLUTIONS, NORMS, Group, Member
from modelopt_core.tracing import trace

POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.ELU,
    nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
POINTWISE_CALLS = {
    F.relu, torch.relu, F.gelu, F.silu, torch.sigmoid, torch.tanh, F.dropout, F.max_pool2d, F.avg_pool2d, F.max_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.hardtanh, F.relu6,
    "relu", "sigmoid", "tanh", "contiguous", "float", "clone",
}  # fmt: skip
BINARY = {operator.add, operator.iadd, operator.sub, operator.mul, operator.truediv, torch.add, torch.sub, torch.mul,
          torch.div, "add", "sub", "mul", "div", "masked_fill"}  # fmt: skip
REDUCTIONS = {torch.mean, torch.sum, torch.amax, torch.max, "mean", "sum", "amax", "max"}


@dataclass(frozen=True)
class Space:
    """Channels of `group` on `axis`, `repeat` features each in a row."""

    group: str
    axis: int
    repeat: int = 1


class Walk(fx.Interpreter):
    """Runs the graph once on the example and follows the channels."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__(trace(model))
        self.example = example
        self.spaces: dict[fx.Node, Space | None] = {}
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.found: dict[str, Group] = {}
        self.joined: dict[str, str] = {}  # union-find: group -> parent
        self.visited: set[str] = set()

    def run(self, *_: Any, **__: Any) -> list[Group]:
        with torch.no_grad():
            super().run(self.example)
        return [g for name, g in self.found.items() if self.root(name) == name]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        self.spaces[n] = self.follow(n)
        return result

    # union-find over groups -----------------------------------------------------------------------------------------
    def root(self, name: str) -> str:
        while self.joined.get(name, name) != name:
            name = self.joined[name]
        return name

    def join(self, a: str, b: str) -> str:
        a, b = self.root(a), self.root(b)
        if a != b:
            first, second = self.found[a], self.found[b]
            first.members += second.members
            first.frozen = first.frozen or second.frozen
            self.joined[b] = a
        return a

    def freeze(self, node: object, why: str) -> None:
        for arg in _nodes(node):
            space = self.spaces.get(arg)
            if space:
                group = self.found[self.root(space.group)]
                group.frozen = group.frozen or why

    # one node -------------------------------------------------------------------------------------------------------
    def follow(self, n: fx.Node) -> Space | None:
        inputs = [a for a in _nodes([n.args, n.kwargs]) if self.spaces.get(a)]
        if n.op == "output":
            self.freeze(n.args, "it is the model's output")
        elif n.op == "call_module":
            return self.after_layer(n, str(n.target), self.module_at(n))
        elif n.op in ("call_function", "call_method") and (inputs or n.target in BINARY):
            return self.after_call(n, inputs)
        return None

    def module_at(self, n: fx.Node) -> nn.Module:
        layer = self.fetch_attr(str(n.target))
        assert isinstance(layer, nn.Module)
        return layer

    def after_layer(self, n: fx.Node, name: str, layer: nn.Module) -> Space | None:
        source = n.args[0] if n.args else None
        space = self.spaces.get(source) if isinstance(source, fx.Node) else None
        if isinstance(layer, (*POINTWISE, *POOLS)):
            return space
        if isinstance(layer, nn.Flatten) and isinstance(source, fx.Node):
            return self.flatten(n, source, space)
        if name in self.visited:
            self.freeze(n.args, f"{name} is used more than once")
            for group in self.found.values():
                if any(m.layer == name for m in group.members):
                    group.frozen = f"{name} is used more than once"
            return None
        self.visited.add(name)
        if isinstance(layer, CONVOLUTIONS):
            return self.convolution(name, layer, space)
        if isinstance(layer, nn.Linear):
            return self.linear(n, name, layer, space, len(self.shapes[n]))
        if isinstance(layer, nn.Embedding):
            return self.make(name, layer.embedding_dim, len(self.shapes[n]) - 1)
        if isinstance(layer, NORMS) and space:
            self.found[self.root(space.group)].members.append(Member(name, "norm", space.repeat))
            return space
        self.freeze(n.args, f"{name} ({type(layer).__name__}) is not known to the walk")
        return None

    def make(self, name: str, size: int, axis: int) -> Space:
        self.found[name] = Group(name, size, [Member(name, "out")])
        return Space(name, axis)

    def convolution(self, name: str, layer: Any, space: Space | None) -> Space | None:
        if layer.groups == 1:
            if space:
                self.found[self.root(space.group)].members.append(Member(name, "in", space.repeat))
            return self.make(name, layer.out_channels, 1)
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if depthwise and space and space.repeat == 1:
            self.found[self.root(space.group)].members.append(Member(name, "norm"))
            return space
        if space:
            group = self.found[self.root(space.group)]
            group.frozen = group.frozen or f"{name} is a grouped convolution"
        return None

    def linear(self, n: fx.Node, name: str, layer: nn.Linear, space: Space | None, dims: int) -> Space | None:
        if space and space.axis == dims - 1:
            self.found[self.root(space.group)].members.append(Member(name, "in", space.repeat))
        elif space:
            self.freeze(n.args, f"{name} reads another axis")
        return self.make(name, layer.out_features, dims - 1)

    def after_call(self, n: fx.Node, inputs: list[fx.Node]) -> Space | None:
        source = n.args[0] if n.args else None
        space = self.spaces.get(source) if isinstance(source, fx.Node) else None
        if n.target in BINARY:
            return self.binary(n, inputs)
        if n.target in POINTWISE_CALLS:
            return space
        if n.target in ("size", "dim") or n.target is getattr:
            return None
        if n.target in (torch.flatten, "flatten", "view", "reshape", torch.reshape) and isinstance(source, fx.Node):
            return self.flatten(n, source, space)
        if n.target in ("transpose", torch.transpose) and space:
            a, b = (int(i) % len(self.shapes[n]) for i in n.args[1:3])  # type: ignore[arg-type]
            return Space(space.group, {a: b, b: a}.get(space.axis, space.axis), space.repeat)
        if n.target in ("permute", torch.permute) and space:
            order = n.args[1] if isinstance(n.args[1], (tuple, list)) else n.args[1:]
            return Space(space.group, [int(i) % len(order) for i in order].index(space.axis), space.repeat)  # type: ignore[arg-type]
        if n.target in REDUCTIONS and space and n in self.shapes:
            return self.reduce(n, space)
        self.freeze([n.args, n.kwargs], f"{getattr(n.target, '__name__', n.target)} is not known to the walk")
        return None

    def binary(self, n: fx.Node, inputs: list[fx.Node]) -> Space | None:
        """Same shape on both sides: the channels are coupled. A broadcast over the channel axis leaves them alone."""
        operands = [a for a in _nodes([n.args, n.kwargs]) if a in self.shapes]
        result: Space | None = None
        for node in inputs:
            space = self.spaces[node]
            assert space is not None
            if result is None:
                result = space
            elif (space.axis, space.repeat) == (result.axis, result.repeat):
                result = Space(self.join(result.group, space.group), space.axis, space.repeat)
            else:
                self.freeze(inputs, "it meets another layout in a sum")
                return None
        if result is None:
            return None
        for node in operands:
            if self.spaces.get(node) is None:
                shape, dims = self.shapes[node], len(self.shapes[n])
                axis = result.axis - (dims - len(shape))
                if axis >= 0 and shape[axis] != 1:
                    self.freeze(inputs, "it is combined with a tensor whose channels must stay")
        return result

    def flatten(self, n: fx.Node, source: fx.Node, space: Space | None) -> Space | None:
        """(N, C, *rest) -> (N, C · rest): each channel becomes a run of features."""
        if space is None:
            return None
        before, after = self.shapes[source], self.shapes[n]
        if before == after:
            return space
        whole = len(after) == 2 and after[0] == before[0] and space.axis == 1
        if not whole:
            self.freeze([source], "its axis is reshaped")
            return None
        return Space(space.group, 1, space.repeat * (after[1] // before[1]))

    def reduce(self, n: fx.Node, space: Space) -> Space | None:
        """Over another axis the channels go on; a reduction over their own axis would change its meaning."""
        dims = n.kwargs.get("dim", n.args[1] if len(n.args) > 1 else None)
        keep = bool(n.kwargs.get("keepdim", n.args[2] if len(n.args) > 2 else False))
        source = n.args[0]
        assert isinstance(source, fx.Node)
        rank = len(self.shapes[source])
        over = dims if isinstance(dims, (tuple, list)) else [] if dims is None else [dims]
        gone = {int(d) % rank for d in over}  # type: ignore[arg-type]
        if not gone or space.axis in gone:
            self.freeze([source], "it is reduced over its channels")
            return None
        return Space(space.group, space.axis if keep else space.axis - sum(d < space.axis for d in gone), space.repeat)


def _nodes(args: object) -> list[fx.Node]:
    """Every node among (nested) arguments."""
    if isinstance(args, fx.Node):
        return [args]
    if isinstance(args, (tuple, list)):
        return [node for item in args for node in _nodes(item)]
    if isinstance(args, dict):
        return [node for item in args.values() for node in _nodes(item)]
    return []
