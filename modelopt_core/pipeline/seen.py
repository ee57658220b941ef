"""What a pipeline's last stage took for some examples: what the maps made of them, and where they cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelopt_core.altered import Altered, Scattered
from modelopt_core.boxes import NUMBERS, edges, overlap
from modelopt_core.pipeline.flow import Flow, left, staged, undoing
from modelopt_core.pipeline.walk import is_box, remade
from modelopt_core.workload import Workload


@dataclass(frozen=True, eq=False)
class Seen:
    """Of r examples: what the last stage took, (r, *shape); boxes (r, 3) that a stage cut out, and the true ones. NaN
    where there is none.
    """

    inputs: Tensor
    boxes: Tensor
    truth: Tensor

    def overlap(self, at: int) -> float | None:
        """Of one example: intersection over union of its two boxes; None where it has no two."""
        if bool((self.boxes[at] + self.truth[at]).isnan().any()):
            return None
        return float(overlap(self.boxes[at : at + 1], self.truth[at : at + 1]))

    def outlines(self, at: int) -> list[tuple[str, tuple[float, float, float]]]:
        """Of one example: (`true` or `found`, (first y, first x, size)) of each box, as shares of the side."""
        known = [(name, box[at : at + 1]) for name, box in (("true", self.truth), ("found", self.boxes))]
        return [
            (name, (*edges(box)[0][0].tolist(), float(box[0, 2]))) for name, box in known if not bool(box.isnan().any())
        ]


def seen(whole: nn.Module, workload: Workload, flow: Flow, rows: Sequence[int], split: str = "val") -> Seen:
    """What became of these examples of a split on the ways that `follow` found, or with the truth where a stage has it.

    Nothing here is timed; networks run on these examples only.
    """
    whole = staged(whole)
    at = torch.tensor(rows, dtype=torch.int64)
    inputs = workload.split(split).take(at).clone()
    boxes = torch.full((len(at), NUMBERS), torch.nan)
    known, undo = flow.known[at], undoing(whole.plan, workload)
    if isinstance(workload, Altered):
        inputs[known] = workload.sound(split)[at[known]]
    truth = boxes.clone()
    if isinstance(workload, Scattered):
        truth = workload.truth[split][at]
        boxes[known] = truth[known]
    for i, way in enumerate(flow.ways):
        for sure in (False, True):
            mine = ((flow.way[at] == i) & (known == sure)).nonzero()[:, 0]
            for member in left(whole.plan, way, undo) if sure else way:
                with torch.no_grad():
                    made = whole.members[member](inputs[mine])
                if is_box(made, inputs[mine]):
                    boxes[mine] = made
                inputs[mine] = remade(made, inputs[mine])
    return Seen(inputs, boxes, truth)
