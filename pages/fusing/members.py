"""The tab Members: everyone alone, their plain average and what was made of them, by score, size and time."""

from __future__ import annotations

from html import escape

import streamlit as st
from torch import nn

import modelopt_core as mo
from modelopt_core.tasks.statistics import Estimate, mean_interval
from pages.draw import units
from pages.state import stack
from pages.state.bench import Bench
from pages.work.trial import Trial

HEADS = ("score on val", "95 % interval", "score on test", "file", "latency", "MACs")


def draw(trial: Trial) -> None:
    """A row a model; test only on request."""
    here, models = trial.bench, stack.models(trial.members, trial.bench.workload)
    average = mo.Ensemble(rule="geometric", weights=()).apply(models, here.workload)
    rows = [*zip(stack.names(trial.members), models, strict=True), ("plain average", average),
            (f"Fuse, {trial.step.of}", trial.after)]  # fmt: skip
    best = max(range(len(models)), key=lambda at: _measured(here, models[at]).score.value)
    told = st.toggle("Test", key="Fuse.test", help="Test only reports: what it says must choose nothing here.")
    body = "".join(_row(here, name, model, told, at == best) for at, (name, model) in enumerate(rows))
    heads = "".join(f'<th class="mo-number">{head}</th>' for head in HEADS if told or "test" not in head)
    st.html(
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr><th>model</th>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="mo-foot">{_split(trial)}</p>'
    )


def _row(here: Bench, name: str, model: nn.Module, told: bool, best: bool) -> str:
    m = _measured(here, model)
    cells = [units.percent(m.score.value), units.percent_interval(m.score)]
    cells += [units.percent(_test(here, model).value)] if told else []
    cells += [units.size(m.size_bytes), units.milliseconds(m.latency_ms.value), units.short(m.macs)]
    shown = f"<b>{escape(name)}</b>, best alone" if best else escape(name)
    return f"<tr><td>{shown}</td>" + "".join(f'<td class="mo-number">{escape(cell)}</td>' for cell in cells) + "</tr>"


def _split(trial: Trial) -> str:
    """Which examples did what."""
    said = "Members were trained on train. The plain average runs all of them and needs no fitting. "
    if trial.step.of == "weights":
        return f"{said}Merged weights: val chooses the share, so test would say a little less."
    return (
        f"{said}The head is fitted on val, which no member has seen; its val score comes from {trial.step.folds} heads "
        "that were each fitted without the examples that they judge. The head in the file was fitted on all of val; "
        "test is what it has never seen."
    )


def _measured(here: Bench, model: nn.Module) -> mo.Measurement:
    return mo.measure(model, here.workload, runtime=here.runtime, device=here.device)


def _test(here: Bench, model: nn.Module) -> Estimate:
    found = mo.predictions(model, here.workload, "test", runtime=here.runtime, device=here.device)
    return mean_interval(found.scores.numpy())
