"""What was timed is handed out: the graph that ran as a file for other programs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from modelopt_core.errors import unknown
from modelopt_core.machine import atomic
from modelopt_core.models import sound
from modelopt_core.runtime.inference import graph_that_runs
from modelopt_core.runtime.onnx_export import onnx_bytes
from modelopt_core.workloads.workload import Workload

PRECISIONS = ("as_run", "float")


def onnx_file(model: nn.Module, workload: Workload, precision: str = "as_run") -> bytes:
    """The model as a serialised ONNX graph: `inputs` (batch, *shape) -> `logits` (batch, K), batch free.

    precision: "as_run" is the very graph that `compile` runs and `measure` times, its weights whole numbers where
    integer kernels run; its 4-bit layers are ONNX Runtime's own operator. "float" has each weight as the float that it
    stands for, for programs that know no integers. A session that leaves out the optimizer `WeightBiasQuantization`
    gives bit by bit what `predictions` has, on processors whose int8 sums do not saturate (x86 with VNNI, ARM).
    ModelOptError when torch cannot trace the model or ONNX has no word for one of its operators, for weights that
    are not finite, and for answers that are no numbers (n, K).
    """
    sound.check(model)
    sound.answering(model, workload)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "float":
        return onnx_bytes(model, workload.example)
    return bytes(graph_that_runs(model, workload).SerializeToString())


def export_onnx(model: nn.Module, workload: Workload, path: str | Path, precision: str = "as_run") -> Path:
    """Write `onnx_file` to `path`; the old file stays whole until the new one is."""
    return atomic.write(path, onnx_file(model, workload, precision))
