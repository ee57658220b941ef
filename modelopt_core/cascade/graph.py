"""A cascade as one ONNX graph that really stops early: each later stage lies in the branch of an `If`.

The branch is entered when any example of the batch is in doubt, and computes those examples only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix

LIMITS = "thresholds"  # an input with the cascade's own as its default: one session serves every setting


def staged(gates: Sequence[onnx.ModelProto], thresholds: Sequence[float], classes: int = 0) -> onnx.ModelProto:
    """The graphs of gates, each `inputs` (b, *shape) -> (b, K + 1), as one: `inputs`, `thresholds` (S − 1,) -> (b, K).

    classes: K, where a gate's further columns are what the next one takes in place of the inputs. The opset and IR
    versions are the newest of the gates'.
    """
    source, target = gates[0].graph.input[0], gates[0].graph.output[0].name
    limits = np.asarray(thresholds, dtype=np.float32)
    nodes, weights, said = _stage(gates, 0, source.name, classes)
    weights += [numpy_helper.from_array(limits, LIMITS), *_constants("", first=[0], last=[-1], axis=[1])]
    nodes.append(helper.make_node("Slice", [said, "first", "last", "axis"], [target]))  # without the confidence
    graph = helper.make_graph(
        nodes,
        "cascade",
        [source, helper.make_tensor_value_info(LIMITS, TensorProto.FLOAT, limits.shape)],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, ["batch", None])],
        weights,
    )
    versions: dict[str, int] = {}
    for one in (opset for gate in gates for opset in gate.opset_import):
        versions[one.domain] = max(one.version, versions.get(one.domain, 0))
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(gate.ir_version for gate in gates))


def _stage(
    gates: Sequence[onnx.ModelProto], at: int, source: str, classes: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
    """Gate `at` and all after it, on the tensor `source`: (nodes, initializers, name of what was said (b, K + 1))."""
    gate, prefix = add_prefix(gates[at], f"{at}/").graph, f"{at}/gate/"
    nodes, weights, said = list(gate.node), list(gate.initializer), gate.output[0].name
    for node in nodes:
        node.input[:] = [source if name == gate.input[0].name else name for name in node.input]
    if at == len(gates) - 1:
        return nodes, weights, said
    if classes:
        whole, said, source = said, f"{prefix}said", f"{prefix}state"
        weights += _constants(f"{prefix}cut/", zero=[0], at=[classes + 1], end=[2**31 - 1], axis=[1])
        zero, cut, end, axis = (f"{prefix}cut/{name}" for name in ("zero", "at", "end", "axis"))
        nodes.append(helper.make_node("Slice", [whole, zero, cut, axis], [said]))
        nodes.append(helper.make_node("Slice", [whole, cut, end, axis], [source]))
    sure, limit, least, any_doubt, told = (prefix + name for name in ("sure", "limit", "least", "doubt", "told"))
    weights += _constants(prefix, confidence=-1, stage=at)
    nodes += [
        helper.make_node("Gather", [said, f"{prefix}confidence"], [sure], axis=1),  # (b,)
        helper.make_node("Gather", [LIMITS, f"{prefix}stage"], [limit]),
        helper.make_node("ReduceMin", [sure], [least], keepdims=0),
        helper.make_node("Less", [least, limit], [any_doubt]),
        helper.make_node(
            "If",
            [any_doubt],
            [told],
            then_branch=_asked_again(gates, at + 1, source, said, sure, limit, classes),
            else_branch=_branch([helper.make_node("Identity", [said], [f"{prefix}kept"])], [], f"{prefix}kept"),
        ),
    ]
    return nodes, weights, told


def _asked_again(
    gates: Sequence[onnx.ModelProto], at: int, source: str, said: str, sure: str, limit: str, classes: int
) -> onnx.GraphProto:
    """`said`, with the rows of the examples in doubt replaced by what gate `at` and those after it say."""
    prefix = f"{at}/asked/"
    doubt, place, rows, part, merged = (prefix + name for name in ("doubt", "place", "rows", "inputs", "merged"))
    nodes, weights, again = _stage(gates, at, part, classes)
    before = [
        helper.make_node("Less", [sure, limit], [doubt]),
        helper.make_node("NonZero", [doubt], [place]),  # (1, m)
        helper.make_node("Transpose", [place], [rows]),  # (m, 1)
        helper.make_node("GatherND", [source, rows], [part]),  # (m, *shape)
    ]
    after = [helper.make_node("ScatterND", [said, rows, again], [merged])]
    return _branch(before + nodes + after, weights, merged)


def _branch(nodes: Sequence[onnx.NodeProto], weights: Sequence[onnx.TensorProto], said: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(said, TensorProto.FLOAT, ["batch", None])
    return helper.make_graph(nodes, f"to {said}", [], [output], weights)


def _constants(prefix: str, **values: int | Sequence[int]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(value, np.int64), prefix + name) for name, value in values.items()]
