"""A cascade as one ONNX graph that really stops early: each later stage lies in a branch."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto

from modelopt_core.runtime.onnx_branches import Sheet, finished


def staged(gates: Sequence[onnx.ModelProto], thresholds: Sequence[float]) -> onnx.ModelProto:
    """The graphs of gates as one: `inputs`, `thresholds` (S − 1,) -> (b, K).

    A gate is `inputs` (b, *shape) -> (b, K + 1), log-probabilities and how sure they are; where further columns follow
    they are a state, flat, which the next gate takes in place of the inputs.
    """
    sheet = Sheet("", gates)
    return finished("cascade", sheet, _stage(sheet, 0, gates[0].graph.input[0].name), thresholds)


def _stage(sheet: Sheet, at: int, source: str) -> str:
    """What gate `at`, and all after it for those that it is not sure of, say of the tensor `source`: (b, K).

    What a gate puts side by side is taken one by one, and a state before it was made flat: nothing is copied, and to
    give it its shape again changes nothing.
    """
    said, sure, *state = sheet.columns(at, source)  # (b, K), (b, 1), and some (b, S') that the next gate takes
    if at == len(sheet.models) - 1:
        return said
    carried = source
    if state:
        carried = sheet.before("Flatten", state[0]) if len(state) == 1 else sheet.add("Concat", *state, axis=-1)
    sure, limit = sheet.before("Unsqueeze", sure), sheet.limit(at)  # (b,), ()
    some = sheet.add("Less", sheet.add("ReduceMin", sure, keepdims=0), limit)
    branch = sheet.branch(f"{at + 1}")
    rows = branch.rows(branch.add("Less", sure, limit))
    again = _stage(branch, at + 1, branch.add("GatherND", carried, rows))
    return sheet.choose(some, branch, branch.add("ScatterND", said, rows, again), said, TensorProto.FLOAT)
