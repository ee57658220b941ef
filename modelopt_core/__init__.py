"""Optimize models and combine them, and measure what it costs.

>>> import modelopt_core as mo
>>> w = mo.workload("digits")
>>> model = mo.baseline("digits", "cnn")
>>> small = mo.Prune(ratio=0.5).apply(model, w)
>>> mo.measure(small, w).macs < mo.measure(model, w).macs
True

The names live in api.py and are loaded at first use: a command line that only opens the app need not wait for PyTorch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelopt_core.api import *  # noqa: F403 - the list below is kept equal by a test
    from modelopt_core.structure import channels as channels

__version__ = "0.1.0"
__all__ = [  # noqa: F405
    "CONFIDENCES", "CRITERIA", "LOSSES", "MERGES", "OBSERVERS", "ROUNDINGS", "RULES", "STEPS", "WORKLOADS",
    "Cascade", "Combine", "Comparison", "Distill", "Ensemble", "Estimate", "Finetune", "Fuse", "Gap", "Measurement",
    "ModelOptError", "Outputs", "Pipeline", "Point", "Predictions", "Progress", "Prune", "Quantize", "Recipe",
    "Registry", "Split", "Stage", "Step", "Transform", "Workload",
    "agreement", "allocate", "baseline", "compare", "compile", "curve", "damaged", "export_onnx", "export_safetensors",
    "from_json", "gap", "layers", "load", "measure", "part", "predictions", "provenance", "run", "save", "scattered",
    "sensitivity", "soften", "to_json", "widths", "workload",
]  # fmt: skip


class _Package(ModuleType):
    """Public names come before submodules of the same name: `mo.measure` is the function, as its users expect."""

    def __getattr__(self, name: str) -> Any:
        if name in __all__:
            return getattr(import_module("modelopt_core.api"), name)
        if name == "channels":
            return import_module("modelopt_core.structure.channels")
        raise AttributeError(f"modelopt_core has no {name!r}; choose from {', '.join(__all__)}")

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
