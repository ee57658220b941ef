"""Examples of a pipeline as pictures: as they came, where a stage cut, and what the last stage took of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelopt_core.steps.pipeline import Flow, Seen, seen
from modelopt_core.workloads.damage import Scattered
from pages.combining import composed
from pages.draw import units
from pages.tabs import examples
from pages.work.trial import Trial

BOXES = "Outlined: what was cut out; dotted: where it really is. Beside it: what the last stage was given."
GIVEN = "Beside each example: what the last stage was given."


def built(trial: Trial, rows: Sequence[int]) -> Mapping[int, str]:
    """With the pipeline as built."""
    return shown(trial, composed.happened(trial, switched=False), rows)


def shown(trial: Trial, flow: Flow, rows: Sequence[int]) -> Mapping[int, str]:
    """Examples of val as HTML, each with what became of it where a stage makes another input of it."""
    workload = trial.bench.workload
    if not any(flow.ways):
        return examples.plain(trial, rows)
    found = seen(trial.after, workload, flow, rows)
    title = legend(trial, flow)
    return {
        i: f'<span class="mo-seen" title="{title}">{_pair(trial, found, at, i)}</span>' for at, i in enumerate(rows)
    }


def legend(trial: Trial, flow: Flow) -> str:
    """What the pictures show beside the example; nothing where they show it alone."""
    if not any(flow.ways):
        return ""
    return BOXES if isinstance(trial.bench.workload, Scattered) else GIVEN


def _pair(trial: Trial, found: Seen, at: int, i: int) -> str:
    """The picture, with its boxes, and the one that was handed on."""
    boxes = "".join(
        f'<i class="mo-{name}" style="top:{top:.1%};left:{left:.1%};width:{size:.1%};height:{size:.1%}"></i>'
        for name, (top, left, size) in found.outlines(at)
    )
    overlap = found.overlap(at)
    told = "" if overlap is None else f"; its box overlaps the true one by {units.percent(overlap)}"
    made = examples.picture(found.inputs[at, 0].numpy(), f"what the last stage was given of example {i}{told}")
    return f"<span>{examples.shown(trial.bench.workload, i)}{boxes}</span>{made}"
