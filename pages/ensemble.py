"""Ensemble: several models answer together."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.combining import diversity, doubt, reliability, rivals, weights
from pages.frame import technique_page


def note(step: mo.Ensemble, found: Measurement) -> str:
    """What an ensemble costs."""
    return "every member with a weight runs for every example; one without is left out"


technique_page.page(
    technique_page.Technique(
        step=mo.Ensemble,
        knob="weights",
        question="How much should one member count? Where do the others stop helping?",
        note=note,
        pool={"mnist": ("lenet300", "lenet300-1", "lenet300-2", "lenet300-3", "lenet300-4")},
        turn=weights.turn,
        extra=("dial",),
        settle=weights.settle,
        tabs={
            "Weights": weights.draw,
            "Diversity": diversity.draw,
            "One large": rivals.draw,
            "Calibration": reliability.draw,
            "Doubt": doubt.draw,
        },
        order=("Weights", "Diversity", "One large", "Calibration", "Doubt"),
    )
)
