"""Mixed precision: how many bits each layer gets under a budget. Solved, not guessed.

Every layer is tried alone at every width: what the file then costs, and by how much the loss on val rises. Taking one
width for each layer so that the sum of the rises is least under a sum of bytes is a multiple-choice knapsack. Its whole
front is found by dynamic programming over the layers, where a state that another one beats in both sums is dropped.

Source: Nemhauser and Ullmann, Discrete dynamic programming and capital allocation, 1969; Dong et al., HAWQ-V2,
arXiv 1911.03852 (the front over bits).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.files import mopt
from modelopt_core.machine import cores
from modelopt_core.machine.events import Progress, Report, silent
from modelopt_core.measuring.measurement import compare, predictions
from modelopt_core.steps.checks import FLOATS
from modelopt_core.steps.quantize.quantize import BITS, Quantize
from modelopt_core.steps.quantize.quantized_layers import weighted
from modelopt_core.tasks.statistics import Estimate
from modelopt_core.workloads.workload import Workload

WIDTHS = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Width:
    """One layer alone at `bits`. size_bytes: of its weight in the file; rise: of the mean loss; delta: of the score."""

    layer: str
    bits: int
    size_bytes: int
    rise: float
    delta: Estimate


class State(NamedTuple):
    """A choice for each layer: the sums of what was chosen, and which option of each."""

    size: int
    cost: float
    picks: tuple[int, ...]


def widths(
    model: nn.Module,
    workload: Workload,
    step: Quantize,
    tried: Sequence[int] = WIDTHS,
    *,
    seed: int = 0,
    report: Report = silent,
) -> Iterator[Width]:
    """Every layer alone at every width of `tried`, all else as in `step` without its training; yielded one by one."""
    if wrong := [bits for bits in tried if bits not in BITS]:
        raise ModelOptError(f"{wrong[0]} bits are not allowed; choose from 1 to 8 and 16")
    names = [name for name, _ in weighted(model)]
    before = _loss(model, workload)
    for at, name in enumerate(names):
        for bits in tried:
            cores.pause()
            others = tuple((other, FLOATS) for other in names if other != name)
            alone = step.changed(bits=bits, layer_bits=others, recovery="none", activations=0)
            small = alone.apply(model, workload, seed=seed)
            row = next(row for row in mopt.sizes(small).rows if row.name == f"{name}.weight")
            delta = compare(model, small, workload).delta
            yield Width(name, bits, row.size_bytes, _loss(small, workload) - before, delta)
        report(Progress("widths", at + 1, len(names)))


def front(options: Sequence[Sequence[tuple[int, float]]]) -> list[State]:
    """Per layer its (size, cost) pairs -> all choices of one pair each that no other beats in both sums, by size."""
    states = [State(0, 0.0, ())]
    for pairs in options:
        grown = [State(s.size + a, s.cost + b, (*s.picks, i)) for s in states for i, (a, b) in enumerate(pairs)]
        states, least = [], float("inf")
        for state in sorted(grown, key=lambda s: (s.size, s.cost)):
            if state.cost < least:
                states.append(state)
                least = state.cost
    return states


def allocate(
    model: nn.Module,
    workload: Workload,
    step: Quantize,
    *,
    budget_bytes: int | None = None,
    tolerated_drop: float | None = None,
    tried: Sequence[int] = WIDTHS,
    known: Sequence[Width] = (),
    seed: int = 0,
    report: Report = silent,
) -> Quantize:
    """The step with bits for each layer: the least loss in a file of `budget_bytes`, or the smallest file whose score
    on val falls by no more than `tolerated_drop` (in [0, 1]), measured with all layers together.

    known: all that `widths` yielded for this model and step; where it is given, nothing is tried again.
    ModelOptError where not exactly one of the two is given, or where no choice of widths can do it.
    """
    if (budget_bytes is None) == (tolerated_drop is None):
        raise ModelOptError("give budget_bytes or tolerated_drop, one of the two")
    found: dict[str, list[Width]] = {}
    for width in known or widths(model, workload, step, tried, seed=seed, report=report):
        found.setdefault(width.layer, []).append(width)
    states = front([[(w.size_bytes, max(0.0, w.rise)) for w in of_layer] for of_layer in found.values()])

    def chosen(state: State) -> Quantize:
        picks = zip(found.items(), state.picks, strict=True)
        return step.changed(layer_bits=tuple((name, rows[i].bits) for (name, rows), i in picks))

    def applied(state: State) -> nn.Module:
        return chosen(state).changed(recovery="none").apply(model, workload, seed=seed)

    if budget_bytes is not None:
        least = mopt.sizes(applied(states[0])).size_bytes
        rest = least - states[0].size  # of the file, whatever the widths
        for state in reversed([s for s in states if rest + s.size <= budget_bytes]):
            if mopt.sizes(applied(state)).size_bytes <= budget_bytes:  # together they may code a little differently
                return chosen(state)
        raise ModelOptError(f"a file of {budget_bytes:,} bytes is too small: {least:,} are the least; raise it")
    low, high = 0, len(states)  # the smallest that holds, if the score falls as the loss rises
    while low < high:
        middle = (low + high) // 2
        holds = compare(model, applied(states[middle]), workload).delta.value >= -float(tolerated_drop or 0)
        low, high = (low, middle) if holds else (middle + 1, high)
    if low == len(states):
        raise ModelOptError(f"no choice of widths keeps the score within {tolerated_drop:g}; allow a larger drop")
    return chosen(states[low])


def _loss(model: nn.Module, workload: Workload) -> float:
    """Mean loss on val, from kept predictions."""
    return float(workload.loss(predictions(model, workload).outputs, workload.val.targets))
