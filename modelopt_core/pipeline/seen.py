"""What a pipeline's last stage took for some examples: what the maps made of them, and where they cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.altered import Altered, Scattered
from modelopt_core.boxes import NUMBERS
from modelopt_core.pipeline.flow import Flow, left, undoing
from modelopt_core.pipeline.step import Piped
from modelopt_core.pipeline.walk import is_box, remade
from modelopt_core.workload import Workload


@dataclass(frozen=True, eq=False)
class Seen:
    """Of r examples: what the last stage took, (r, *shape); boxes (r, 3) that a stage cut out, NaN where none did."""

    inputs: Tensor
    boxes: Tensor


def seen(whole: Piped, workload: Workload, flow: Flow, rows: Sequence[int], split: str = "val") -> Seen:
    """What became of these examples of a split on the ways that `follow` found, or with the truth where a stage has it.

    Nothing here is timed; networks run on these examples only.
    """
    at = torch.tensor(rows, dtype=torch.int64)
    inputs = workload.split(split).inputs[at].clone()
    boxes = torch.full((len(at), NUMBERS), torch.nan)
    known, undo = flow.known[at], undoing(whole.plan, workload)
    if isinstance(workload, Altered):
        inputs[known] = workload.sound(split)[at[known]]
    if isinstance(workload, Scattered):
        boxes[known] = workload.truth[split][at[known]]
    for i, way in enumerate(flow.ways):
        for sure in (False, True):
            mine = ((flow.way[at] == i) & (known == sure)).nonzero()[:, 0]
            for member in left(whole.plan, way, undo) if sure else way:
                with torch.no_grad():
                    made = whole.members[member](inputs[mine])
                if is_box(made, inputs[mine]):
                    boxes[mine] = made
                inputs[mine] = remade(made, inputs[mine])
    return Seen(inputs, boxes)
