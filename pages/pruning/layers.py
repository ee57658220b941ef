"""The tab Layers: bars before and after, the table of ratios, and one place for what stays and why."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.prune import Unit
from pages.pruning import ratios
from pages.shared import layer_table
from pages.shared.trial import Trial


def bars(step: mo.Prune) -> layer_table.Bars:
    """Removed channels leave a smaller layer; removed weights leave zeros in a layer of the same shape."""
    return layer_table.CHANNELS if step.granularity == "channel" else layer_table.WEIGHTS


def draw(trial: Trial) -> None:
    """Left what is left of each layer, right what the user says about it."""
    assert isinstance(trial.step, mo.Prune)
    left, right = st.columns([5, 3], gap="large")
    with left:
        layer_table.draw(trial, bars(trial.step))
    with right:
        ratios.edit(trial.bench, trial.step.granularity)
        _stays(trial, [unit for unit in ratios.units_of(trial.bench, trial.step.granularity) if unit.stays])


def _stays(trial: Trial, units: list[Unit]) -> None:
    """What was done otherwise than asked, and what could not be cut at all."""
    lines = [*trial.notes, *(f"{ratios.label(unit)}: left alone, {unit.stays}" for unit in units)]
    if lines:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        st.html(f'<div class="mo-foot mo-stays"><b>What stays, and why</b><ul>{items}</ul></div>')
