"""Prune: remove what matters least."""

import modelopt_core as mo
from modelopt_core.measure import Measurement
from pages.shared import frame, layer_table


def bars(step: mo.Prune) -> layer_table.Bars:
    """Removed channels leave a smaller layer; removed weights leave zeros in a layer of the same shape."""
    return layer_table.CHANNELS if step.granularity == "channel" else layer_table.WEIGHTS


def note(step: mo.Prune, _: Measurement) -> str:
    """Why smaller is not always faster."""
    if step.granularity == "channel":
        return ""
    told = f"{step.pattern}: " if step.pattern else ""
    return f"{told}zeros make the file smaller, not the kernel faster"


frame.page(
    frame.Technique(
        step=mo.Prune,
        knob="ratio",
        question="Where will it break? How much can go before the score falls?",
        bars=bars,
        note=note,
        labels={
            "weight": "weights",
            "block": "blocks",
            "channel": "channels",
            "none": "nothing",
            "norms": "re-estimate norms",
            "fine-tuned": "fine-tune",
        },
    )
)
