"""One node of the graph and where its channels lie: what a rule sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from modelopt_core.structure.graph.couplings import Couplings


@dataclass(frozen=True, eq=False)
class Space:
    """Channel ids[p] lies at position p of `axis`, whatever the position on the other axes. ids: (L,), L ≥ 2."""

    axis: int
    ids: Tensor


Spaces = Space | tuple["Spaces", ...] | None  # of a tensor, of a tuple of tensors, of what carries no channels


class Walked(Protocol):
    """What a rule may know of the walk: the graph's values so far, where their channels lie, and what couples them."""

    env: dict[fx.Node, Any]
    spaces: dict[fx.Node, Spaces]
    couplings: Couplings

    def fetch_attr(self, target: str) -> Any:
        """The layer or tensor of this name."""


@dataclass(frozen=True, eq=False)
class Call:
    """One node of the graph, as its rule sees it."""

    walk: Walked
    node: fx.Node
    result: Any

    @property
    def name(self) -> str:
        """The operator's name, or the layer's path."""
        target = self.node.target
        return target if isinstance(target, str) else getattr(target, "__name__", str(target))

    @property
    def layer(self) -> Any:
        """The layer that is called."""
        return self.walk.fetch_attr(str(self.node.target))

    @property
    def couplings(self) -> Couplings:
        """Where the rule notes what it finds."""
        return self.walk.couplings

    @property
    def inputs(self) -> list[fx.Node]:
        """All nodes among the arguments, in their order."""
        return self.node.all_input_nodes

    @property
    def labelled(self) -> list[fx.Node]:
        """The inputs that carry channels."""
        return [n for n in self.inputs if self.walk.spaces.get(n)]

    @property
    def source(self) -> Tensor:
        """The first input's value."""
        return self.value(self.inputs[0])

    @property
    def space(self) -> Space | None:
        """The first input's space."""
        space = self.walk.spaces.get(self.inputs[0]) if self.inputs else None
        return space if isinstance(space, Space) else None

    def value(self, argument: Any) -> Any:
        """The argument with every node in it replaced by what it gave."""
        return fx.node.map_arg(argument, lambda n: self.walk.env[n])

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of the call, by position or by name, nodes and all."""
        return self.node.kwargs.get(name, self.node.args[position] if position < len(self.node.args) else default)

    def freeze(self, why: str) -> Spaces:
        """All channels that come in must stay; there is nothing to follow any more: None."""
        for node in self.labelled:
            for space in flat(self.walk.spaces[node]):
                self.couplings.freeze(space.ids.tolist(), why)
        return None

    def moved(self) -> Any:
        """What the operator does to the channels' numbers: its result when every element is its channel's number."""

        def numbers(node: fx.Node) -> Any:
            value, space = self.walk.env[node], self.walk.spaces.get(node)
            if not isinstance(value, Tensor):
                return value
            if not isinstance(space, Space):
                return torch.zeros((), dtype=torch.long).expand(value.shape)
            shape = [1] * value.dim()
            shape[space.axis] = -1
            return space.ids.view(shape).expand(value.shape)

        args, kwargs = fx.node.map_arg((self.node.args, dict(self.node.kwargs)), numbers)
        if self.node.op == "call_module":
            return self.layer(*args, **kwargs)
        if self.node.op == "call_method":
            method = "reshape" if self.name == "view" else self.name  # numbers need not lie as the values do
            return getattr(args[0], method)(*args[1:], **kwargs)
        return self.node.target(*args, **kwargs)  # type: ignore[operator]


def flat(spaces: Spaces) -> Iterator[Space]:
    """Every space in nested tuples."""
    if isinstance(spaces, Space):
        yield spaces
    for part in spaces if isinstance(spaces, tuple) else ():
        yield from flat(part)
