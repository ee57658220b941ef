"""Pipelines: stages that do different jobs and hand on, such as sorting into groups and an expert for each.

plan.py checks that stages fit together, walk.py says what they do with inputs, pipeline.py builds the module that
really skips, stage_errors.py computes which stage lost which example, what_stages_see.py shows what became of it,
grouping.py measures which labels are confused.
"""

from modelopt_core.steps.pipeline.grouping import confused
from modelopt_core.steps.pipeline.pipeline import Pipeline
from modelopt_core.steps.pipeline.plan import Plan, Stage, chains, wired
from modelopt_core.steps.pipeline.stage_errors import SWITCHES, Flow, follow, worth
from modelopt_core.steps.pipeline.what_stages_see import Seen, seen

__all__ = [
    "SWITCHES", "Flow", "Pipeline", "Plan", "Seen", "Stage", "chains", "confused", "follow", "seen", "wired", "worth",
]  # fmt: skip
