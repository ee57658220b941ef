"""Distill: a small network learns from a large one."""

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from pages.distilling import beside, softened, teacher, training
from pages.frame import guess, technique_page
from pages.state.bench import Bench
from pages.tabs import layer_table


def bars(_: mo.Distill) -> layer_table.Bars:
    """A student is narrower: its channels."""
    return layer_table.CHANNELS


def note(step: mo.Distill, _: Measurement) -> str:
    """The temperature changes what is learned, not what runs."""
    return "temperature and loss change the score only: size and speed are the student's"


def settle(here: Bench) -> None:
    """A student that the workload has, and a teacher."""
    beside.settle(here)
    teacher.settle(here)


technique_page.page(
    technique_page.Technique(
        step=mo.Distill,
        knob="temperature",
        question="Which temperature teaches best? A low one hides what the teacher knows, a high one blurs it.",
        learn=guess.BEST,
        bars=bars,
        note=note,
        aside=("epochs", "lr", "batch_size", "student_layer", "teacher_layer"),
        settle=settle,
        extra=("teacher",),
        choose=teacher.choose,
        on=teacher.on,
        strip=beside.strip,
        reference=beside.reference,
        always={"Softened": softened.draw, "Training": training.draw},
        order=("Softened", "Training", "Layers"),
    )
)
