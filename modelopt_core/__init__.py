"""Optimize models and combine them, and measure what it costs.

>>> import modelopt_core as mo
>>> w = mo.workload("digits")
>>> model = mo.baseline("digits", "cnn")
>>> small = mo.Prune(ratio=0.5).apply(model, w)
>>> mo.measure(small, w).macs < mo.measure(model, w).macs
True

The rooms, each importing only what stands above it:

errors.py    one error family
machine/     this computer: folders, safe writes, the cache, whose turn the cores are, events, registries
tasks/       how answers are judged: statistics, calibration, boxes
workloads/   data, task and models: digits, docstrings, mnist; inputs damaged on purpose, subtasks
models/      architectures and their specs, several models as one, who a model is, grids of weights
structure/   traced graph, coupled channels and cutting them, layers, what reaches them
training/    the one loop, checkpoints, training on a grid, linear heads, the zoo
runtime/     PyTorch and ONNX Runtime, integer graphs, latency
files/       the compact file
measuring/   predictions, score, size, MACs; what changed
steps/       recipes and their steps: prune, quantize, distill, finetune, ensemble, cascade, pipeline, fuse
studies/     curves in the background, shipped curves, long work as jobs
cli.py       the command

The public names are loaded at first use: a command line that only opens the app need not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelopt_core.errors import ModelOptError as ModelOptError
    from modelopt_core.files.mopt import load as load
    from modelopt_core.files.mopt import save as save
    from modelopt_core.machine.events import Progress as Progress
    from modelopt_core.machine.registry import Registry as Registry
    from modelopt_core.measuring.measurement import Comparison as Comparison
    from modelopt_core.measuring.measurement import Measurement as Measurement
    from modelopt_core.measuring.measurement import Predictions as Predictions
    from modelopt_core.measuring.measurement import compare as compare
    from modelopt_core.measuring.measurement import measure as measure
    from modelopt_core.measuring.measurement import predictions as predictions
    from modelopt_core.measuring.runtime_agreement import agreement as agreement
    from modelopt_core.runtime.handout import export_onnx as export_onnx
    from modelopt_core.runtime.inference import compile as compile
    from modelopt_core.runtime.onnx_export import export_safetensors as export_safetensors
    from modelopt_core.steps.base import Combine as Combine
    from modelopt_core.steps.base import Step as Step
    from modelopt_core.steps.base import Transform as Transform
    from modelopt_core.steps.cascade import CONFIDENCES as CONFIDENCES
    from modelopt_core.steps.cascade import Cascade as Cascade
    from modelopt_core.steps.distill import LOSSES as LOSSES
    from modelopt_core.steps.distill import Distill as Distill
    from modelopt_core.steps.distill import Gap as Gap
    from modelopt_core.steps.distill import gap as gap
    from modelopt_core.steps.distill import soften as soften
    from modelopt_core.steps.ensemble import RULES as RULES
    from modelopt_core.steps.ensemble import Ensemble as Ensemble
    from modelopt_core.steps.finetune import Finetune as Finetune
    from modelopt_core.steps.fuse import MERGES as MERGES
    from modelopt_core.steps.fuse import Fuse as Fuse
    from modelopt_core.steps.pipeline import Pipeline as Pipeline
    from modelopt_core.steps.prune import CRITERIA as CRITERIA
    from modelopt_core.steps.prune import Prune as Prune
    from modelopt_core.steps.prune import sensitivity as sensitivity
    from modelopt_core.steps.quantize import OBSERVERS as OBSERVERS
    from modelopt_core.steps.quantize import ROUNDINGS as ROUNDINGS
    from modelopt_core.steps.quantize import Quantize as Quantize
    from modelopt_core.steps.quantize import allocate as allocate
    from modelopt_core.steps.quantize import widths as widths
    from modelopt_core.steps.recipe import Point as Point
    from modelopt_core.steps.recipe import Recipe as Recipe
    from modelopt_core.steps.recipe import Stage as Stage
    from modelopt_core.steps.recipe import curve as curve
    from modelopt_core.steps.recipe import from_json as from_json
    from modelopt_core.steps.recipe import provenance as provenance
    from modelopt_core.steps.recipe import run as run
    from modelopt_core.steps.recipe import to_json as to_json
    from modelopt_core.steps.registered import STEPS as STEPS
    from modelopt_core.structure import channels as channels
    from modelopt_core.structure.layer_table import layers as layers
    from modelopt_core.tasks.statistics import Estimate as Estimate
    from modelopt_core.training.zoo import baseline as baseline
    from modelopt_core.workloads.damage import damaged as damaged
    from modelopt_core.workloads.damage import scattered as scattered
    from modelopt_core.workloads.subtask_data import part as part
    from modelopt_core.workloads.workload import WORKLOADS as WORKLOADS
    from modelopt_core.workloads.workload import Outputs as Outputs
    from modelopt_core.workloads.workload import Split as Split
    from modelopt_core.workloads.workload import Workload as Workload
    from modelopt_core.workloads.workload import workload as workload

__version__ = "0.1.0"
_PUBLIC = {
    "errors": "ModelOptError",
    "machine.events": "Progress",
    "machine.registry": "Registry",
    "tasks.statistics": "Estimate",
    "workloads.damage": "damaged scattered",
    "workloads.subtask_data": "part",
    "workloads.workload": "WORKLOADS Outputs Split Workload workload",
    "structure.layer_table": "layers",
    "training.zoo": "baseline",
    "runtime.handout": "export_onnx",
    "runtime.inference": "compile",
    "runtime.onnx_export": "export_safetensors",
    "files.mopt": "load save",
    "measuring.measurement": "Comparison Measurement Predictions compare measure predictions",
    "measuring.runtime_agreement": "agreement",
    "steps.base": "Combine Step Transform",
    "steps.cascade": "CONFIDENCES Cascade",
    "steps.distill": "LOSSES Distill Gap gap soften",
    "steps.ensemble": "RULES Ensemble",
    "steps.finetune": "Finetune",
    "steps.fuse": "MERGES Fuse",
    "steps.pipeline": "Pipeline",
    "steps.prune": "CRITERIA Prune sensitivity",
    "steps.quantize": "OBSERVERS ROUNDINGS Quantize allocate widths",
    "steps.registered": "STEPS",
    "steps.recipe": "Point Recipe Stage curve from_json provenance run to_json",
}
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "channels":
        return import_module("modelopt_core.structure.channels")
    if name not in _HOMES:
        raise AttributeError(f"modelopt_core has no {name!r}; choose from {', '.join(__all__)}")
    return getattr(import_module(f"modelopt_core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
