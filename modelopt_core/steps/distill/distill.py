"""The step: who teaches, who learns, and what the student is drawn to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.events import Report
from modelopt_core.steps.base import STEPS, Knob, ModelName, Named, Transform, When
from modelopt_core.steps.distill.losses import LOSSES
from modelopt_core.steps.distill.objective import objective
from modelopt_core.steps.distill.student import OWN, spec_for
from modelopt_core.structure.build import build
from modelopt_core.training.loop import fit
from modelopt_core.workloads.workload import Workload

FEATURES = tuple(name for name, entry in LOSSES.items() if "student_features" in entry["needs"])  # type: ignore[operator]
SOFTENED = tuple(name for name, entry in LOSSES.items() if entry["softens"])


@STEPS.register("Distill")
class Distill(Transform):
    """Train a student, freshly drawn, on the labels and on what its teacher says; return the epoch best on val.

    The teacher is the model that the step is applied to; it is not changed. The student sees the train split as it is.
    With `alpha` = 0 it is the same student without a teacher: the same seed, the same order, the same budget.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """

    sentence: ClassVar[str] = "A small network learns from a large one. How much of the difference can it make up?"
    formula: ClassVar[str] = "(1 − α) · CE(y, s) + α · T² · KL(softmax(t / T) ‖ softmax(s / T))"

    temperature: Annotated[float, Knob(1.0, 20.0, 0.5, "T"), When("loss", *SOFTENED)] = Field(
        4.0, gt=0, le=1000, title="Temperature", description="Divides the logits: what the teacher says becomes softer."
    )
    student: Annotated[str, ModelName(OWN)] = Field(
        OWN,
        min_length=1,
        max_length=80,
        title="Student",
        description="Built as the teacher is, or as another model of the workload; its weights are drawn anew.",
    )
    width: float = Field(
        0.5, gt=0, le=8, title="Width", description="Times the units and channels that its architecture has."
    )
    loss: Annotated[str, Named(LOSSES)] = Field(
        "kl", title="Loss", description="What draws the student to its teacher."
    )
    alpha: float = Field(
        0.9,
        ge=0,
        le=1,
        title="Alpha",
        description="Weight of the teacher; the labels have 1 − α. At 0 it says nothing.",
    )
    epochs: int = Field(40, ge=1, le=1000, title="Epochs", description="Passes over the training split.")
    lr: float = Field(3e-3, gt=0, le=1e9, title="Learning rate", description="First step size; falls to zero.")
    batch_size: int = Field(32, ge=1, le=65536, title="Batch", description="Examples per step.")
    student_layer: Annotated[str, When("loss", *FEATURES)] = Field(
        "", max_length=80, title="Student's layer", description="Whose features are compared; empty for the usual one."
    )
    teacher_layer: Annotated[str, When("loss", *FEATURES)] = Field(
        "", max_length=80, title="Teacher's layer", description="Whose features it is compared with."
    )

    def check(self, models: Sequence[nn.Module], workload: Workload) -> None:
        spec_for(self.student, self.width, models[0], workload)

    def lasts(self, workload: Workload) -> bool:
        """It trains."""
        return True

    @property
    def alone(self) -> Distill:
        """The same student without a teacher: one step, whatever temperature and loss are."""
        told = ("temperature", "loss", "student_layer", "teacher_layer")
        return self.changed(alpha=0.0, **{name: type(self).model_fields[name].default for name in told})

    @property
    def beside(self) -> Distill | None:
        """The student without a teacher."""
        return self.alone if self.alpha > 0 else None

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        seed = generator.initial_seed()
        student = build(spec_for(self.student, self.width, model, workload), seed)
        said, told = (workload.forward(m, workload.example).logits.shape[-1] for m in (student, model))
        if said != told:
            raise ModelOptError(
                f"Distill: the student has {said} classes and the teacher {told}; choose a student with {told}"
            )
        teaching = None
        if self.alpha > 0:
            teaching = objective(
                self.loss,
                model,
                student,
                workload,
                alpha=self.alpha,
                temperature=self.temperature,
                layers=(self.student_layer, self.teacher_layer),
                generator=generator,
            )
        return fit(
            student,
            workload,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            objective=teaching,
            seed=seed,
            report=report,
        )
