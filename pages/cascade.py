"""Cascade: the cheap model first, the dear one in doubt."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.combining import cost, early, stages
from pages.frame import technique_page


def note(step: mo.Cascade, found: Measurement) -> str:
    """What the latency is a mean of."""
    return "latency and MACs: the mean over val; each way through the stages is timed by itself"


technique_page.page(
    technique_page.Technique(
        step=mo.Cascade,
        knob="threshold",
        question="How sure is sure enough? Where do the early answers begin to cost score?",
        note=note,
        pool={"mnist": ("mlp30", "lenet300", "lenet5"), "digits": ("mlp", "cnn")},
        choose=stages.choose,
        settle=stages.settle,
        aside=("frozen", "hidden", "lr"),
        tabs={"Stages": stages.draw, "Cost": cost.draw, "Early and wrong": early.draw},
        order=("Stages", "Cost", "Early and wrong"),
    )
)
