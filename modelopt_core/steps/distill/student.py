"""Who learns: a network built as its teacher is, or as another model of the workload, at a width of one's choice."""

from __future__ import annotations

import inspect
from dataclasses import replace

from torch import nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.models.architectures import ARCHITECTURES
from modelopt_core.models.spec import Argument, Composition, Spec, spec_of
from modelopt_core.training.zoo import ZOO
from modelopt_core.workloads.workload import Workload

OWN = "own"  # the student that is built as its teacher is


def spec_for(name: str, width: float, teacher: nn.Module, workload: Workload) -> Spec:
    """How to build the student. name: OWN, or a model of the workload; width: see `scaled`."""
    if name != OWN:
        if name not in workload.models:
            raise unknown(f"student for {workload.name}", name, (OWN, *workload.models))
        return scaled(ZOO[f"{workload.name}/{name}"].spec, width)
    spec = spec_of(teacher)
    if spec is None or isinstance(spec, Composition):
        others = ", ".join(workload.models) or "none that this workload has"
        raise ModelOptError(
            f"Distill: a student of its {OWN} kind needs a teacher of one known architecture, and "
            f"{type(teacher).__name__} is none; choose student from {others}"
        )
    return scaled(spec, width)


def scaled(spec: Spec, factor: float) -> Spec:
    """The same architecture with `factor` times the units and channels, at least one of each; cut groups likewise.

    An architecture declares which of its arguments are widths; of a tuple, the ends (inputs and classes) stay.
    """

    def times(value: Argument) -> Argument:
        if isinstance(value, tuple):
            return (*value[:1], *(max(1, round(factor * n)) for n in value[1:-1]), *value[-1:])
        return max(1, round(factor * float(value)))

    entry = ARCHITECTURES[spec.architecture]
    defaults = {p.name: p.default for p in inspect.signature(entry.function).parameters.values()}
    arguments = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    arguments |= dict(spec.arguments)
    arguments |= {name: times(arguments[name]) for name in entry["widths"]}  # type: ignore[attr-defined]
    kept = tuple((name, max(1, round(factor * left))) for name, left in spec.kept)
    return replace(spec, arguments=tuple(sorted(arguments.items())), kept=kept)
