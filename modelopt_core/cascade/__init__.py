"""Cascades: the first model answers what it is sure of, the next is asked about the rest.

confidences.py says how sure an answer is, step.py builds the module that really skips, graph.py makes one ONNX graph of
it; cut.py and exits.py make stages of one network that share their work, joint.py trains them together; flow.py
computes who leaves where, what it costs and which thresholds are best.
"""

from modelopt_core.cascade.confidences import CONFIDENCES
from modelopt_core.cascade.cut import INPUTS
from modelopt_core.cascade.exits import Exits
from modelopt_core.cascade.flow import Choice, Flow, best_thresholds, flow, front
from modelopt_core.cascade.step import Cascade

__all__ = ["CONFIDENCES", "INPUTS", "Cascade", "Choice", "Exits", "Flow", "best_thresholds", "flow", "front"]
