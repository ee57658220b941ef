"""Runs a traced graph once on an example and follows the channels from operator to operator."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from modelopt_core.structure.graph.call import Call, Spaces
from modelopt_core.structure.graph.couplings import Couplings
from modelopt_core.structure.graph.group import Group
from modelopt_core.structure.graph.rules import rule_of_call, rule_of_layer
from modelopt_core.structure.trace import trace


class Walk(fx.Interpreter):
    """Runs the graph on the example, beside it the channels."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        if model.training:  # a forward pass would move the averages of batch norm
            model = copy.deepcopy(model).eval()
        super().__init__(model, graph=trace(model))
        self.example = example
        self.spaces: dict[fx.Node, Spaces] = {}
        self.couplings = Couplings()
        self.seen: set[str] = set()

    def run(self, *_: Any, **__: Any) -> list[Group]:
        """The groups of coupled channels."""
        with torch.no_grad():
            super().run(self.example)
        return self.couplings.groups()

    def run_node(self, n: fx.Node) -> Any:
        """The node's value; notes where its channels lie."""
        result = super().run_node(n)
        self.spaces[n] = self.follow(Call(self, n, result))
        return result

    def follow(self, call: Call) -> Spaces:
        """Where the channels lie after one node."""
        op, target = call.node.op, str(call.node.target)
        if op == "output":
            return call.freeze("it is the model's output")
        if op == "get_attr":
            return self.read(call, target)
        if op in ("call_function", "call_method"):
            return rule_of_call(call)(call) if call.labelled else None
        if op == "call_module":
            layer = call.layer
            holds = next(layer.parameters(), None) is not None or next(layer.buffers(), None) is not None
            if holds and target in self.seen:
                self.couplings.freeze_layer(target, f"{target} is used more than once")
                return call.freeze(f"{target} is used more than once")
            self.seen.add(target)
            if not (holds or call.labelled):
                return None
            return rule_of_layer(layer)(call)
        return None

    def read(self, call: Call, target: str) -> Spaces:
        """A layer's weight that the forward pass reads by itself: cutting the layer would break that reader."""
        owner, _, name = target.rpartition(".")
        if name == "weight" and isinstance(call.result, Tensor) and call.result.dim() > 1:
            reader = next(iter(call.node.users))
            why = f"its weight is read by {getattr(reader.target, '__name__', reader.target)}"
            if owner not in self.seen:
                self.seen.add(owner)
                self.couplings.touch(owner, "out", self.couplings.make(len(call.result)))
            self.couplings.freeze_layer(owner, why)
        return None
