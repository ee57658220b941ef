"""Importing this file registers every step, composite and plug point that the techniques have."""

from modelopt_core.steps import cascade, distill, ensemble, finetune, fuse, pipeline, prune, quantize
from modelopt_core.steps.base import STEPS

__all__ = ["STEPS", "cascade", "distill", "ensemble", "finetune", "fuse", "pipeline", "prune", "quantize"]
