"""Pipelines against the best single model: errors, bytes, multiply–accumulates, time; which stage loses what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor

import modelopt_core as mo
from benchmarks.checkpoints import kept
from benchmarks.combine.sliders import milliseconds, told
from modelopt_core.measuring.measurement import stacked
from modelopt_core.steps.pipeline import chains, follow, worth
from modelopt_core.tasks.statistics import mcnemar
from modelopt_core.workloads.damage import Scattered, altered
from modelopt_core.workloads.workload import Workload

NAMES = ("digits", "docstrings", "mnist")
DECIDES = {"route": "threshold", "judge": "suspicion"}  # the first that a chain has is chosen on val
TAUGHT, TEACH = ("article", "lenet5"), mo.Finetune(epochs=30, lr=2e-3, batch_size=64)
TINY = 1e-300  # smaller p have too few digits
VALUES = tuple(i / 20 for i in range(21))


def table() -> Iterator[str]:
    """Markdown, line by line."""
    yield (
        "## Pipelines: stages of different jobs\n\nOn test, with the shipped models of each stage; the threshold t, or "
        "where nothing is sorted the suspicion s, is the smallest of those that score best on val. The single model "
        "is the best on val of those that ship, of models with one score the one with fewer MACs. Damaged and "
        "scattered inputs are simulated. Won, lost: against the single model, exact McNemar. Wall clock: the single "
        "model's over the pipeline's, one example, in turns, mean over the ways through the stages. MACs are of "
        "layers: cutting out a box is timed and not counted.\n"
    )
    yield "| inputs | pipeline | errors | single model | errors | won, lost, p | bytes × | MACs × | wall clock × |"
    yield "|---|---|--:|---|--:|---|--:|--:|--:|"
    cases = [(mo.workload(name), chain) for name in NAMES for chain in chains(mo.workload(name))]
    made = [_case(w, chain) for w, chain in cases]
    for data, step, pool, single in made:
        yield _row(data, step, pool, single)
    yield from _taught(next(case for case in made if isinstance(case[0], Scattered)))
    yield "\nWhere examples are lost on test. Oracle: the score if the stage knew its truth, simulated; off: without.\n"
    yield "| pipeline | stage | own score | lost | recovered | score with oracle | off |\n|---|---|--:|--:|--:|--:|--:|"
    for data, step, pool, _ in made:
        yield from _stages(data, step, pool)
    yield from _sliders(*made[-1][:3])


Case = tuple[Workload, mo.Pipeline, list[str], str]


def _case(whole: Workload, chain: Sequence[str]) -> Case:
    """(inputs, step with its threshold, names of the stages' models, name of the single model)."""
    tasks = [whole.subtask(name) for name in chain]
    data = altered(whole, next(filter(None, (task.meets for task in tasks)), ""))
    names = [model for task in tasks for model in task.models]
    kinds = [task.kind for task in tasks]
    knob = next((field for kind, field in DECIDES.items() if kind in kinds), None)
    settings = [{knob: value} for value in VALUES] if knob else [{}]
    steps = [mo.STEPS["Pipeline"](stages=tuple(chain), **setting) for setting in settings]
    scores = [float(mo.predictions(_made(step, names, data), data).scores.mean()) for step in steps]
    return data, steps[scores.index(max(scores))], names, _best(data)


def _made(step: mo.Pipeline, names: Sequence[str], data: Workload) -> Any:
    return step.apply([mo.baseline(data.name, name) for name in names], data)


def _best(data: Workload) -> str:
    found = {name: mo.measure(mo.baseline(data.name, name), data) for name in data.models}
    return max(found, key=lambda name: (found[name].score.value, -found[name].macs))


def _row(data: Workload, step: mo.Pipeline, names: Sequence[str], name: str) -> str:
    whole, single = _made(step, names, data), mo.baseline(data.name, name)
    found, alone = mo.measure(whole, data, "test", baseline=single), mo.measure(single, data, "test")
    right, was = (mo.predictions(model, data, "test").scores for model in (whole, single))
    n = len(right)
    cells = [
        data.title,
        f"{' → '.join(step.stages)}{_settings(data, step)}",
        f"{n - int(right.sum()):,} of {n:,}",
        name,
        f"{n - int(was.sum()):,}",
        _flips(was, right),
        f"{alone.size_bytes / found.size_bytes:.2f}",
        f"{alone.macs / found.macs:.2f}",
        f"{found.speedup.value:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _taught(case: Case) -> Iterator[str]:
    """Is a detector worth it, where a single model may learn to read scattered digits from as many examples?"""
    data, step, names, _ = case
    right = mo.predictions(_made(step, names, data), data, "test").scores
    yield (
        f"\nNo single model above has seen such inputs. Fine-tuned on the same {len(data.train):,} scattered examples "
        f"that the detector learned from ({TEACH.epochs} epochs, the best on val), against {' → '.join(step.stages)}:\n"
    )
    yield "| single model | errors | chain | chain won, lost, p |\n|---|--:|--:|---|"
    for name in TAUGHT:
        model = mo.baseline(data.name, name)
        key = f"{data.name}-{name}-scattered-{TEACH.key([model], data)[:16]}"
        taught = kept(key, model, partial(TEACH.apply, model, data))
        was = mo.predictions(taught, data, "test").scores
        errors = [f"{len(one) - int(one.sum()):,}" for one in (was, right)]
        yield f"| {name} | {errors[0]} | {errors[1]} | {_flips(was, right)} |"


def _flips(was: Tensor, right: Tensor) -> str:
    """Scores of the one and the other model (n,): won, lost and the p of McNemar's test."""
    flips = mcnemar(was.numpy(), right.numpy())
    return f"{flips.won:,}, {flips.lost:,}, p {f'= {flips.p:.2g}' if flips.p >= TINY else f'< {TINY:g}'}"


def _settings(data: Workload, step: mo.Pipeline) -> str:
    """What its stages decide by: , t = 0.5, s = 0.5"""
    kinds = [data.subtask(name).kind for name in step.stages]
    told = (("route", f", t = {step.threshold:g}"), ("judge", f", s = {step.suspicion:g}"))
    return "".join(text for kind, text in told if kind in kinds)


def _stages(data: Workload, step: mo.Pipeline, names: Sequence[str]) -> Iterator[str]:
    whole = _made(step, names, data)
    flow, values = follow(whole, data, "test"), worth(whole, data, "test")
    name = f"{data.name}: {' → '.join(step.stages)}"
    for at, (stage, (lost, back)) in enumerate(zip(flow.names, flow.counts(), strict=True)):
        own = flow.own(at)
        cells = [name, stage, f"{own.value:.2%}" if own else "", f"{lost:,}", f"{back:,}",
                 *(f"{score:.2%}" for score in values[stage])]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _sliders(data: Workload, step: mo.Pipeline, names: Sequence[str]) -> Iterator[str]:
    """What a moved threshold costs on kept predictions."""
    whole = _made(step, names, data)
    calls = {
        "threshold: the score": lambda: whole.answer(stacked(whole.parts, data)),
        "threshold: which stage lost what": lambda: follow(whole, data),
    }
    yield f"\n| slider, {len(step.stages)} stages × {len(data.val):,} | median / p95, CPU time | bar |\n|---|--:|--:|"
    for name, call in calls.items():
        yield f"| {name} | {told(milliseconds(call))} | 5 ms |"
