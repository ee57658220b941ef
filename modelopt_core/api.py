# ruff: noqa: F401 - what is imported here is the public interface
"""The public names of the package, gathered. Users write `import modelopt_core as mo`; see the package's docstring."""

import modelopt_core.workloads  # registers them
from modelopt_core.errors import ModelOptError
from modelopt_core.files.mopt import load, save
from modelopt_core.machine.events import Progress
from modelopt_core.machine.registry import Registry
from modelopt_core.measuring.measurement import Comparison, Measurement, Predictions, compare, measure, predictions
from modelopt_core.measuring.runtime_agreement import agreement
from modelopt_core.runtime.handout import export_onnx
from modelopt_core.runtime.inference import compile
from modelopt_core.runtime.onnx_export import export_safetensors
from modelopt_core.steps.base import STEPS, Combine, Step, Transform
from modelopt_core.steps.cascade import CONFIDENCES, Cascade
from modelopt_core.steps.distill import LOSSES, Distill, Gap, gap, soften
from modelopt_core.steps.ensemble import RULES, Ensemble
from modelopt_core.steps.finetune import Finetune
from modelopt_core.steps.fuse import MERGES, Fuse
from modelopt_core.steps.pipeline import Pipeline
from modelopt_core.steps.prune import CRITERIA, Prune, sensitivity
from modelopt_core.steps.quantize import OBSERVERS, ROUNDINGS, Quantize, allocate, widths
from modelopt_core.steps.recipe import Point, Recipe, Stage, curve, from_json, provenance, run, to_json
from modelopt_core.structure.layer_table import layers
from modelopt_core.tasks.statistics import Estimate
from modelopt_core.training.zoo import baseline
from modelopt_core.workloads.damage import damaged, scattered
from modelopt_core.workloads.subtask_data import part
from modelopt_core.workloads.workload import WORKLOADS, Outputs, Split, Workload, workload
