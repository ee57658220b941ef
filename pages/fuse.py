"""Fuse: one model made of several, by weights, outputs or features."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.frame import technique_page
from pages.fusing import combiner, members, turning, valley


def note(step: mo.Fuse, found: Measurement) -> str:
    """What the score is of, or what the size is."""
    if step.of == "weights":
        return "one network of the size of one, however many went in"
    return f"cross-fitted: each of {step.folds} parts of val is judged by a head that was fitted to the others"


technique_page.page(
    technique_page.Technique(
        step=mo.Fuse,
        knob="weights",
        question="Halfway between two good networks: as good, or ruined?",
        note=note,
        labels={"permute": "permute units", "norms": "re-estimate norms", "none": "as they are"},
        aside=("recovery", "select", "density", "folds"),
        pool={
            "mnist": ("lenet300", "lenet300-1"),
            "digits": ("cnn", "cnn-2"),
            "docstrings": ("bag", "bag-1"),
        },
        turn=turning.turn,
        extra=("dial",),
        settle=turning.settle,
        strip=turning.strip,
        reference=turning.reference,
        always={"Valley": valley.draw},
        tabs={"Members": members.draw, "Combiner": combiner.draw},
        order=("Valley", "Members", "Combiner"),
    )
)
