"""A pipeline as one ONNX graph that really skips: maps and experts lie in branches of `If`s.

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

from modelopt_core.pipeline.plan import Groups, Plan, Stage

LIMITS = "thresholds"  # an input with the pipeline's own as its default: one session serves every setting
THRESHOLD, SUSPICION = 0, 1  # places in it


class _Sheet:
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

    def said(self, member: int, source: str) -> str:
        """Its log-probabilities (b, k)."""
        return self.add("LogSoftmax", self.call(member, source), axis=-1)

    def limit(self, place: int) -> str:
        """One of the thresholds, ()."""
        return self.add("Gather", LIMITS, self.constant(place))

    def where(self, needed: str, label: str) -> tuple[str, _Sheet, str]:
        """(does any example (b,) need it, the branch for those, their indices (r, 1) in it)."""
        some = self.add("Cast", self.add("ReduceMax", self.add("Cast", needed, to=TensorProto.FLOAT), keepdims=0),
                        to=TensorProto.BOOL)  # fmt: skip
        branch = _Sheet(f"{self.prefix}{label}/", self.models)
        return some, branch, branch.add("Transpose", branch.add("NonZero", needed))

    def choose(self, some: str, branch: _Sheet, made: str, kept: str, kind: int) -> str:
        """What the branch made where some need it, else `kept`. kind: type of the numbers."""
        other = _Sheet(f"{branch.prefix}else/", self.models)
        same = other.add("Identity", kept)
        return self.add("If", some, then_branch=branch.graph(made, kind), else_branch=other.graph(same, kind))

    def graph(self, put_out: str, kind: int) -> onnx.GraphProto:
        """As the body of a branch."""
        told = helper.make_tensor_value_info(put_out, kind, None)
        return helper.make_graph(self.nodes, self.prefix, [], [told], self.weights)


def piped(plan: Plan, models: Sequence[onnx.ModelProto], limits: Sequence[float]) -> onnx.ModelProto:
    """The graphs of the models, each `inputs` (b, *shape) -> (b, k), as one: `inputs`, `thresholds` (2,) -> (b, K)."""
    sheet, given = _Sheet("p/", models), models[0].graph.input[0]
    target = models[-1].graph.output[0].name
    source, kind, flagged, route = given.name, given.type.tensor_type.elem_type, "", ""
    for stage in plan.stages[:-1]:
        member = stage.member()
        if stage.kind == "judge":
            damage = sheet.add("Gather", sheet.add("Exp", sheet.said(member, source)), sheet.constant(1), axis=1)
            flagged = sheet.add("GreaterOrEqual", damage, sheet.limit(SUSPICION))  # (b,)
        elif stage.kind == "route":
            route = _coarse(sheet, sheet.said(member, source), stage.groups, models[member])
        else:
            source, flagged = _mended(sheet, member, source, flagged, kind), ""
    last = plan.stages[-1]
    said = _experts(sheet, last, source, route) if route else sheet.said(last.member(), source)
    sheet.nodes.append(helper.make_node("Identity", [said], [target]))
    sheet.weights.append(numpy_helper.from_array(np.asarray(limits, np.float32), LIMITS))
    graph = helper.make_graph(
        sheet.nodes,
        "pipeline",
        [given, helper.make_tensor_value_info(LIMITS, TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", None])],
        sheet.weights,
    )
    versions: dict[str, int] = {}
    for one in (opset for model in models for opset in model.opset_import):
        versions[one.domain] = max(one.version, versions.get(one.domain, 0))
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version for model in models))


def _mended(sheet: _Sheet, member: int, source: str, flagged: str, kind: int) -> str:
    """The inputs with those that are flagged, or all, as the map makes them."""
    if not flagged:
        return _remade(sheet, member, source)
    some, branch, rows = sheet.where(flagged, f"mend{member}")
    made = _remade(branch, member, branch.add("GatherND", source, rows))
    return sheet.choose(some, branch, branch.add("ScatterND", source, rows, made), source, kind)


def _remade(sheet: _Sheet, member: int, source: str) -> str:
    """`walk.remade`: pixels in one row get the shape of what the map took."""
    made, ends = sheet.call(member, source), sheet.models[member].graph
    ranks = [len(end.type.tensor_type.shape.dim) for end in (ends.input[0], ends.output[0])]
    if ranks[0] == ranks[1]:
        return made
    held = sheet.add("Clip", made, sheet.constant(0, np.float32), sheet.constant(1, np.float32))
    return sheet.add("Reshape", held, sheet.add("Shape", source))


def _coarse(sheet: _Sheet, said: str, groups: Groups, model: onnx.ModelProto) -> str:
    """`walk.coarse`: (b, G), the sums over the groups where the model tells labels."""
    if _width(model) == len(groups):
        return said
    sums = [
        sheet.add("ReduceLogSumExp", sheet.add("Gather", said, sheet.constant(labels), axis=1), axes=[1], keepdims=1)
        for labels in groups
    ]
    return sheet.add("Concat", *sums, axis=1)


def _experts(sheet: _Sheet, stage: Stage, source: str, route: str) -> str:
    """`walk._experts`: (b, K), group by group, each in a branch of its own."""
    surest = sheet.add("ReduceMax", route, axes=[1], keepdims=0)  # (b,)
    unsure = sheet.add("Less", sheet.add("Exp", surest), sheet.limit(THRESHOLD))
    chosen = sheet.add("ArgMax", route, axis=1, keepdims=0)
    even = sheet.add("Sub", route, sheet.constant(stage.log_sizes.numpy(), np.float32))
    said = sheet.add("Gather", even, sheet.constant(stage.group_of.numpy()), axis=1)
    for group, labels in enumerate(stage.groups):
        needed = sheet.add("Or", unsure, sheet.add("Equal", chosen, sheet.constant(group)))
        some, branch, rows = sheet.where(needed, f"group{group}")
        part = branch.add("GatherND", source, rows)
        found = branch.said(stage.member(group), part)  # (r, k)
        if _width(sheet.models[stage.member(group)]) != len(labels):
            found = branch.add("LogSoftmax", branch.add("Gather", found, branch.constant(labels), axis=1), axis=-1)
        share = branch.add("Gather", branch.add("GatherND", route, rows), branch.constant([group]), axis=1)  # (r, 1)
        put = np.zeros((len(labels), len(stage.group_of)), np.float32)
        put[np.arange(len(labels)), list(labels)] = 1
        told = branch.add("MatMul", branch.add("Add", found, share), branch.constant(put, np.float32))  # (r, K)
        rest = branch.add("Mul", branch.add("GatherND", said, rows), branch.constant(1 - put.sum(0), np.float32))
        merged = branch.add("ScatterND", said, rows, branch.add("Add", told, rest))
        said = sheet.choose(some, branch, merged, said, TensorProto.FLOAT)
    return said


def _width(model: onnx.ModelProto) -> int:
    return int(model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value)
