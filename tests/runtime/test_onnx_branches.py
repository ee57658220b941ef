"""Graphs that skip: nodes that nothing is made of are left out; those that only a branch reads are not."""

from onnx import helper

import modelopt_core as mo
from modelopt_core.runtime.onnx_branches import needed
from modelopt_core.runtime.onnx_export import onnx_graph


def test_what_is_needed_by_hand():
    inner = helper.make_graph([helper.make_node("Neg", ["b"], ["c"])], "inner", [], [])
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Abs", ["x"], ["b"]),  # a branch reads it
        helper.make_node("Abs", ["a"], ["idle"]),
        helper.make_node("If", ["a"], ["y"], then_branch=inner, else_branch=inner),
    ]
    assert [node.output[0] for node in needed(nodes, "y")] == ["a", "b", "y"]
    assert needed(nodes, "x") == []


def test_a_cascade_puts_nothing_side_by_side():
    """Log-probabilities, confidence and state go on as they are: ONNX Runtime runs nodes that nobody reads."""
    w, cnn = mo.workload("digits"), mo.baseline("digits", "cnn")
    for step in (mo.Cascade(), mo.Cascade(stages="exits")):
        graph = onnx_graph(step.apply([mo.baseline("digits", "mlp"), cnn], w), w.example).graph
        while graph is not None:
            assert "Concat" not in {node.op_type for node in graph.node}
            graph = next((node.attribute[0].g for node in graph.node if node.op_type == "If"), None)
