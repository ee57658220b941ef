"""The comparison that matters: several small models against one large one, at equal bytes and at equal latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from modelopt_core.files import mopt
from modelopt_core.measuring.measurement import Measurement, measure, predictions
from modelopt_core.steps.ensemble import Ensemble
from modelopt_core.steps.quantize import Quantize
from modelopt_core.workloads.workload import Workload

WIDTHS = range(8, 1, -1)  # one bit has no zero: it codes to more bytes than two


@dataclass(frozen=True)
class Rival:
    """One way to spend the bytes or the time. loss: mean log loss on val, nats."""

    name: str
    measurement: Measurement
    loss: float


def rivals(
    members: Sequence[nn.Module],
    step: Ensemble,
    large: nn.Module,
    workload: Workload,
    *,
    bits: int = 4,
    runtime: str = "onnx",
    device: str = "cpu",
) -> Iterator[Rival]:
    """The ensemble, also with its members at `bits`; the large model as it is, and rounded until its file is no larger
    than either; as many members, the first ones, as run in the large model's time. Latency in turns with the large one.
    """

    def rival(name: str, model: nn.Module) -> Rival:
        found = measure(model, workload, runtime=runtime, device=device, baseline=large)
        said = predictions(model, workload, runtime=runtime, device=device).outputs
        return Rival(name, found, float(workload.loss(said, workload.val.targets)))

    yield (whole := rival("the ensemble", step.apply(members, workload)))
    small = [_rounded(member, bits, workload) for member in members]
    yield (rounded := rival(f"the ensemble at {bits} bits", step.apply(small, workload)))
    yield (one := rival("the large model", large))
    for name, budget in (("the ensemble", whole), (f"the ensemble at {bits} bits", rounded)):
        width = widest(large, workload, budget.measurement.size_bytes)
        if width is not None:
            model = _rounded(large, width, workload)
            yield rival(f"the large model at {width} bits, no larger than {name}", model)
    alone = [measure(member, workload, runtime=runtime, device=device).latency_ms.value for member in members]
    fit = affordable(alone, one.measurement.latency_ms.value)
    if 2 <= fit < len(members):
        fewer = step.changed(weights=()).apply(members[:fit], workload)
        yield rival(f"{fit} members, no slower than the large model", fewer)


def widest(large: nn.Module, workload: Workload, budget_bytes: int) -> int | None:
    """The most bits of WIDTHS at which the model's file has no more than `budget_bytes`.

    None where it needs no rounding, or where even two bits are too many. Files grow with bits: found by halving.
    """
    if mopt.sizes(large).size_bytes <= budget_bytes:
        return None
    low, high = 0, len(WIDTHS)  # of WIDTHS, the first that fits
    while low < high:
        middle = (low + high) // 2
        fits = mopt.sizes(_rounded(large, WIDTHS[middle], workload)).size_bytes <= budget_bytes
        low, high = (low, middle) if fits else (middle + 1, high)
    return WIDTHS[low] if low < len(WIDTHS) else None


def affordable(latencies: Sequence[float], budget: float) -> int:
    """How many of the first members run, one after the other, within the budget; all in one unit of time."""
    spent = 0.0
    for count, latency in enumerate(latencies):
        spent += latency
        if spent > budget:
            return count
    return len(latencies)


def _rounded(model: nn.Module, bits: int, workload: Workload) -> nn.Module:
    return Quantize.model_validate({"bits": bits}).apply(model, workload)
