"""A pipeline as one ONNX graph that really skips: maps and experts lie in branches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto

from modelopt_core.runtime.onnx_branches import Sheet, finished
from modelopt_core.steps.pipeline.plan import Groups, Plan, Stage
from modelopt_core.steps.pipeline.walk import is_box
from modelopt_core.tasks import boxes

THRESHOLD, SUSPICION = 0, 1  # places in the thresholds


def piped(plan: Plan, models: Sequence[onnx.ModelProto], limits: Sequence[float]) -> onnx.ModelProto:
    """The graphs of the models, each `inputs` (b, *shape) -> (b, k), as one: `inputs`, `thresholds` (2,) -> (b, K)."""
    sheet, given = Sheet("p/", models), models[0].graph.input[0]
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
    return finished("pipeline", sheet, said, limits)


def _mended(sheet: Sheet, member: int, source: str, flagged: str, kind: int) -> str:
    """The inputs with those that are flagged, or all, as the map makes them."""
    if not flagged:
        return _remade(sheet, member, source)
    some, branch, rows = _where(sheet, flagged, f"mend{member}")
    made = _remade(branch, member, branch.add("GatherND", source, rows))
    return sheet.choose(some, branch, branch.add("ScatterND", source, rows, made), source, kind)


def _remade(sheet: Sheet, member: int, source: str) -> str:
    """`walk.remade`: pixels in one row get the shape of what the map took; of a box, what lies in it is cut out."""
    made, ends = sheet.call(member, source), sheet.models[member].graph
    took, put = ([d.dim_value for d in end.type.tensor_type.shape.dim] for end in (ends.input[0], ends.output[0]))
    if len(took) == len(put):
        return made
    if is_box(torch.empty(1, *put[1:]), torch.empty(1, *took[1:])):
        return _cropped(sheet, made, source, *took[2:])
    held = sheet.add("Clip", made, sheet.constant(0, np.float32), sheet.constant(1, np.float32))
    return sheet.add("Reshape", held, sheet.add("Shape", source))


def _cropped(sheet: Sheet, found: str, source: str, h: int, w: int) -> str:
    """`boxes.crop` of boxes (b, 3) no larger than the whole, from (b, c, h, w)."""
    sides = []
    for place, pixels in enumerate((h, w)):
        scale = np.zeros((boxes.NUMBERS, pixels))
        scale[place], scale[-1] = pixels, pixels * boxes.grid(pixels).numpy()
        at = sheet.add("MatMul", found, sheet.constant(scale, np.float32))  # (b, pixels), half a pixel too far
        across = (1, pixels) if place else (pixels, 1)  # of the new pixels; those of the picture lie along the other
        at = sheet.add("Reshape", at, sheet.constant((-1, 1, *across)))
        middles = sheet.constant((np.arange(pixels) + 0.5).reshape(across[::-1]), np.float32)
        away = sheet.add("Abs", sheet.add("Sub", at, middles))
        sides.append(sheet.add("Relu", sheet.add("Sub", sheet.constant(1, np.float32), away)))
    return sheet.add("MatMul", sheet.add("MatMul", sides[0], source), sides[1])


def _coarse(sheet: Sheet, said: str, groups: Groups, model: onnx.ModelProto) -> str:
    """`walk.coarse`: (b, G), the sums over the groups where the model tells labels."""
    if _width(model) == len(groups):
        return said
    sums = [
        sheet.add("ReduceLogSumExp", sheet.add("Gather", said, sheet.constant(labels), axis=1), axes=[1], keepdims=1)
        for labels in groups
    ]
    return sheet.add("Concat", *sums, axis=1)


def _experts(sheet: Sheet, stage: Stage, source: str, route: str) -> str:
    """`walk._experts`: (b, K), group by group, each in a branch of its own."""
    surest = sheet.add("ReduceMax", route, axes=[1], keepdims=0)  # (b,)
    unsure = sheet.add("Less", sheet.add("Exp", surest), sheet.limit(THRESHOLD))
    chosen = sheet.add("ArgMax", route, axis=1, keepdims=0)
    even = sheet.add("Sub", route, sheet.constant(stage.log_sizes.numpy(), np.float32))
    said = sheet.add("Gather", even, sheet.constant(stage.group_of.numpy()), axis=1)
    for group, labels in enumerate(stage.groups):
        needed = sheet.add("Or", unsure, sheet.add("Equal", chosen, sheet.constant(group)))
        some, branch, rows = _where(sheet, needed, f"group{group}")
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


def _where(sheet: Sheet, needed: str, label: str) -> tuple[str, Sheet, str]:
    """(does any example (b,) need it, the branch for those, their indices (r, 1) in it)."""
    some = sheet.add("ReduceMax", sheet.add("Cast", needed, to=TensorProto.FLOAT), keepdims=0)
    branch = sheet.branch(label)
    return sheet.add("Cast", some, to=TensorProto.BOOL), branch, branch.rows(needed)
