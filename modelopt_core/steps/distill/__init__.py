"""Distillation: a small network learns from what a large one says.

losses.py: what the student is drawn to, one pure function each. student.py: how it is built. objective.py: teacher
and student side by side in the training loop. distill.py: the step. softened.py: what temperature does, on kept
predictions. gap_closed.py: what the teacher was worth, beside the same student without one.
"""

from modelopt_core.steps.distill.distill import Distill as Distill
from modelopt_core.steps.distill.gap_closed import Gap as Gap
from modelopt_core.steps.distill.gap_closed import gap as gap
from modelopt_core.steps.distill.losses import LOSSES as LOSSES
from modelopt_core.steps.distill.losses import LossContext as LossContext
from modelopt_core.steps.distill.softened import Softened as Softened
from modelopt_core.steps.distill.softened import soften as soften
from modelopt_core.steps.distill.softened import telling as telling
from modelopt_core.steps.distill.student import OWN as OWN
