"""The tab Layers: bars before and after, the table of ratios, and one place for what stays and why."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.prune import Unit
from pages.pruning import ratios
from pages.state.setting import Setting
from pages.tabs import layer_table
from pages.work import launch
from pages.work.trial import Trial


def bars(step: mo.Prune) -> layer_table.Bars:
    """Removed channels leave a smaller layer; removed weights leave zeros in a layer of the same shape."""
    return layer_table.CHANNELS if step.granularity == "channel" else layer_table.WEIGHTS


def draw(setting: Setting) -> None:
    """Left what is left of each layer, right what the user says about it."""
    here, step = setting.bench, setting.step
    assert isinstance(step, mo.Prune)
    left, right = st.columns([5, 3], gap="large")
    with left:
        layer_table.draw(setting, bars(step)) if isinstance(setting, Trial) else launch.to_come()
    with right:
        ratios.edit(here, step.granularity)
        notes = (*(setting.notes if isinstance(setting, Trial) else ()), *ratios.still(here, step.granularity))
        _stays(notes, [unit for unit in ratios.units_of(here, step.granularity) if unit.stays])


def _stays(notes: tuple[str, ...], units: list[Unit]) -> None:
    """What was done otherwise than asked, and what could not be cut at all."""
    lines = [*notes, *(f"{ratios.label(unit)}: left alone, {unit.stays}" for unit in units)]
    if lines:
        told = "".join(f"<br>{escape(line)}" for line in lines)
        st.html(f'<p class="mo-foot"><b>What stays, and why</b>{told}</p>')
