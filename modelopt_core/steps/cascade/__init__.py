"""Cascades: the first model answers what it is sure of, the next is asked about the rest.

confidences.py says how sure an answer is, cascade.py builds the module that really skips, onnx_graph.py makes one
ONNX graph of it; split.py and exits.py make stages of one network that share their work, joint.py trains them
together; stage_flow.py computes who leaves where, what it costs and which thresholds are best.
"""

from modelopt_core.steps.cascade.cascade import Cascade
from modelopt_core.steps.cascade.confidences import CONFIDENCES
from modelopt_core.steps.cascade.exits import Exits
from modelopt_core.steps.cascade.split import INPUTS
from modelopt_core.steps.cascade.stage_flow import Choice, Flow, best_thresholds, flow, front

__all__ = ["CONFIDENCES", "INPUTS", "Cascade", "Choice", "Exits", "Flow", "best_thresholds", "flow", "front"]
