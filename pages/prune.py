"""Prune: remove what matters least."""

import modelopt_core as mo
from modelopt_core.measure import Measurement
from pages.pruning import article, criteria, layers, ratios, removed, sensitivity
from pages.shared import cards, frame, units


def note(step: mo.Prune, found: Measurement) -> str:
    """Why smaller is not always faster."""
    if step.granularity != "channel":
        told = f"{step.pattern}: " if step.pattern else ""
        return f"{told}zeros make the file smaller, not the kernel faster"
    return "whole channels are gone: a smaller dense network, which every kernel runs with less work"


frame.page(
    frame.Technique(
        step=mo.Prune,
        knob="ratio",
        question="Where will it break? How much can go before the score falls?",
        bars=layers.bars,
        note=note,
        labels={
            "weight": "weights",
            "block": "blocks",
            "channel": "channels",
            "none": "nothing",
            "norms": "re-estimate norms",
            "fine-tuned": "fine-tune",
        },
        settle=ratios.settle,
        tabs={
            "Layers": layers.draw,
            "Criteria": criteria.draw,
            "Sensitivity": sensitivity.draw,
            "Removed": removed.draw,
            "Article": article.draw,
        },
    )
)
