"""Prune: remove what matters least."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.frame import technique_page
from pages.pruning import article, criteria, layers, ratios, recovery, removed, sensitivity, weights


def note(step: mo.Prune, _: Measurement) -> str:
    """Why smaller is not always faster."""
    if step.granularity == "channel":
        return "smaller dense layers: less work for every kernel"
    told = f"{step.pattern}: " if step.pattern else ""
    return f"{told}zeros make the file smaller, not the kernel faster"


technique_page.page(
    technique_page.Technique(
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
            "norms": "re-estimate",
            "fine-tuned": "fine-tune",
        },
        aside=("rounds", "schedule", "epochs", "lr", "batch_size", "augment"),
        settle=ratios.settle,
        strip=recovery.draw,
        tabs={"Removed": removed.draw},
        always={
            "Layers": layers.draw,
            "Criteria": criteria.draw,
            "Sensitivity": sensitivity.draw,
            "Weights": weights.draw,
            "Article": article.draw,
        },
        order=("Layers", "Criteria", "Sensitivity", "Weights", "Removed", "Article"),
    )
)
