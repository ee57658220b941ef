"""A cascade as one ONNX graph that really stops early: each later stage lies in a branch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from modelopt_core.branches import Sheet, finished

END = 2**31 - 1  # of a Slice: however many columns there are


def staged(gates: Sequence[onnx.ModelProto], thresholds: Sequence[float], classes: int = 0) -> onnx.ModelProto:
    """The graphs of gates, each `inputs` (b, *shape) -> (b, K + 1), as one: `inputs`, `thresholds` (S − 1,) -> (b, K).

    classes: K, where a gate's further columns are what the next one takes in place of the inputs.
    """
    sheet = Sheet("", gates)
    said = _stage(sheet, 0, gates[0].graph.input[0].name, classes)
    return finished("cascade", sheet, _columns(sheet, said, 0, -1), thresholds)  # without the confidence


def _stage(sheet: Sheet, at: int, source: str, classes: int) -> str:
    """What gate `at`, and all after it for those that it is not sure of, say of the tensor `source`: (b, K + 1)."""
    said = sheet.call(at, source)
    if at == len(sheet.models) - 1:
        return said
    if classes:
        said, source = _columns(sheet, said, 0, classes + 1), _columns(sheet, said, classes + 1, END)
    sure = sheet.add("Gather", said, sheet.constant(-1), axis=1)  # (b,)
    limit = sheet.limit(at)
    some = sheet.add("Less", sheet.add("ReduceMin", sure, keepdims=0), limit)
    branch = sheet.branch(f"{at + 1}")
    rows = branch.rows(branch.add("Less", sure, limit))
    again = _stage(branch, at + 1, branch.add("GatherND", source, rows), classes)
    return sheet.choose(some, branch, branch.add("ScatterND", said, rows, again), said, TensorProto.FLOAT)


def _columns(sheet: Sheet, source: str, first: int, end: int) -> str:
    return sheet.add("Slice", source, *(sheet.constant([place]) for place in (first, end, 1)))
