"""Pipelines: stages that do different jobs and hand on, such as sorting into groups and an expert for each.

plan.py checks that stages fit together, walk.py says what they do with inputs, step.py builds the module that really
skips, flow.py computes which stage lost which example, grouping.py measures which labels are confused.
"""

from modelopt_core.pipeline.flow import SWITCHES, Flow, follow, worth
from modelopt_core.pipeline.grouping import confused
from modelopt_core.pipeline.plan import Plan, Stage, chains, wired
from modelopt_core.pipeline.step import Pipeline

__all__ = ["SWITCHES", "Flow", "Pipeline", "Plan", "Stage", "chains", "confused", "follow", "wired", "worth"]
