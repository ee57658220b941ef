# ruff: noqa: F401 - what is imported here is the public interface
"""The public names of the package, gathered. Users write `import modelopt_core as mo`; see the package's docstring."""

import modelopt_core.workloads  # registers them
from modelopt_core.agreement import agreement
from modelopt_core.altered import damaged, scattered
from modelopt_core.cascade import CONFIDENCES, Cascade
from modelopt_core.codec import load, save
from modelopt_core.distill import LOSSES, Distill, Gap, gap, soften
from modelopt_core.ensemble import RULES, Ensemble
from modelopt_core.errors import ModelOptError
from modelopt_core.estimate import Estimate
from modelopt_core.events import Progress
from modelopt_core.export import export_safetensors
from modelopt_core.finetune import Finetune
from modelopt_core.fuse import MERGES, Fuse
from modelopt_core.handout import export_onnx
from modelopt_core.layers import layers
from modelopt_core.measure import Comparison, Measurement, Predictions, compare, measure, predictions
from modelopt_core.parts import part
from modelopt_core.pipeline import Pipeline
from modelopt_core.prune import CRITERIA, Prune, sensitivity
from modelopt_core.quantize import OBSERVERS, ROUNDINGS, Quantize, allocate, widths
from modelopt_core.recipe import Point, Recipe, Stage, curve, from_json, provenance, run, to_json
from modelopt_core.registry import Registry
from modelopt_core.runtime import compile
from modelopt_core.step import STEPS, Combine, Step, Transform
from modelopt_core.workload import WORKLOADS, Outputs, Split, Workload, workload
from modelopt_core.zoo import baseline
