"""Pipeline: each model does one job and hands on."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.combining import chain, composed, errors, pictures
from pages.frame import technique_page


def note(step: mo.Pipeline, found: Measurement) -> str:
    """What the latency is a mean of."""
    return "latency and MACs: the mean over val; each way through the stages is timed by itself"


technique_page.page(
    technique_page.Technique(
        step=mo.Pipeline,
        knob="threshold",
        question="How sure must the first stage be? Where along the way is most lost?",
        note=note,
        aside=("suspicion",),
        idle=chain.idle,
        pool=dict.fromkeys(("digits", "mnist"), ("groups", "expert-1", "expert-2", "expert-3")),
        choose=chain.choose,
        on=chain.on,
        settle=chain.settle,
        turn=chain.turn,
        extra=("switches", "inputs"),
        shown=pictures.built,
        tabs={"Stages": composed.draw, "Errors": errors.draw, "Lost": errors.lost},
        order=("Stages", "Errors", "Lost"),
    )
)
