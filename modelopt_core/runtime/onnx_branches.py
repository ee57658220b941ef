"""ONNX graphs that skip: what not every example needs lies in branches of `If`.

A branch is entered when any example of the batch needs it, and computes those examples only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix

LIMITS = "thresholds"  # an input with the composite's own as its default: one session serves every setting


class Sheet:
    """Nodes and constants of a graph or of a branch, under names that begin with `prefix`."""

    def __init__(self, prefix: str, models: Sequence[onnx.ModelProto]) -> None:
        self.prefix, self.models = prefix, models
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """One more node; the name of what it puts out."""
        name = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: ArrayLike, kind: type = np.int64) -> str:
        """The name of a constant."""
        name = f"{self.prefix}c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def call(self, member: int, source: str) -> str:
        """What a model puts out for `source`."""
        graph = add_prefix(self.models[member], f"{self.prefix}m{member}/").graph
        for node in graph.node:
            node.input[:] = [source if name == graph.input[0].name else name for name in node.input]
        self.nodes += graph.node
        self.weights += graph.initializer
        return str(graph.output[0].name)

    def columns(self, member: int, source: str) -> list[str]:
        """What a model puts side by side in the end, each by its name."""
        joined = self.call(member, source)
        return list(next(node for node in self.nodes if joined in node.output).input)

    def before(self, operator: str, name: str) -> str:
        """What went into the `operator` that made this, or itself if another did."""
        made = next((node for node in self.nodes if name in node.output), None)
        return str(made.input[0]) if made and made.op_type == operator else name

    def said(self, member: int, source: str) -> str:
        """Its log-probabilities (b, k)."""
        return self.add("LogSoftmax", self.call(member, source), axis=-1)

    def limit(self, place: int) -> str:
        """One of the thresholds, ()."""
        return self.add("Gather", LIMITS, self.constant(place))

    def branch(self, label: str) -> Sheet:
        """What may be skipped; it sees the names of this sheet."""
        return Sheet(f"{self.prefix}{label}/", self.models)

    def rows(self, needed: str) -> str:
        """The indices (r, 1) of the examples that need it (b,), for GatherND and ScatterND."""
        return self.add("Transpose", self.add("NonZero", needed))

    def choose(self, some: str, branch: Sheet, made: str, kept: str, kind: int) -> str:
        """What the branch made where some need it, else `kept`. kind: type of the numbers."""
        other = branch.branch("else")
        same = other.add("Identity", kept)
        return self.add("If", some, then_branch=branch.graph(made, kind), else_branch=other.graph(same, kind))

    def graph(self, put_out: str, kind: int) -> onnx.GraphProto:
        """As the body of a branch."""
        told = helper.make_tensor_value_info(put_out, kind, None)
        return helper.make_graph(needed(self.nodes, put_out), self.prefix, [], [told], self.weights)


def needed(nodes: Sequence[onnx.NodeProto], put_out: str) -> list[onnx.NodeProto]:
    """Those of the nodes, in order, that `put_out` is made of: a runtime may run the others too."""
    wanted, kept = {put_out}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= _reads(node)
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that it takes, also inside its branches."""
    inside = [inner for attribute in node.attribute for inner in attribute.g.node]
    return set(node.input).union(*map(_reads, inside))


def finished(called: str, sheet: Sheet, said: str, limits: Sequence[float]) -> onnx.ModelProto:
    """The sheet as a whole graph: `inputs` of the first model, `thresholds` -> what was `said` (b, K).

    The output is named as the last model's. The opset and IR versions are the newest of the models'.
    """
    models, thresholds = sheet.models, np.asarray(limits, np.float32)
    target = models[-1].graph.output[0].name
    sheet.nodes.append(helper.make_node("Identity", [said], [target]))
    graph = helper.make_graph(
        needed(sheet.nodes, target),
        called,
        [models[0].graph.input[0], helper.make_tensor_value_info(LIMITS, TensorProto.FLOAT, thresholds.shape)],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", None])],
        [*sheet.weights, numpy_helper.from_array(thresholds, LIMITS)],
    )
    versions: dict[str, int] = {}
    for one in (opset for model in models for opset in model.opset_import):
        versions[one.domain] = max(one.version, versions.get(one.domain, 0))
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version for model in models))
