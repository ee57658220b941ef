"""The same student without a teacher: what the page compares with, and what was measured of it."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.distill import OWN
from modelopt_core.studies import shipped_curves
from modelopt_core.tasks.statistics import Estimate
from pages.state import at_hand, controls
from pages.state.bench import Bench
from pages.state.setting import Setting
from pages.work import launch

KNOB = "temperature"


def settle(here: Bench) -> None:
    """A student that this workload does not have becomes one of the teacher's own kind."""
    key = controls.keys(mo.Distill)["student"]
    if st.session_state[key] not in (OWN, *here.workload.models):
        st.session_state[key] = OWN


def reference(setting: Setting) -> tuple[Estimate, str] | None:
    """Its score on val over the seeds that were run, as a band behind the curve; None where nobody has run it."""
    here, step = setting.bench, setting.step
    assert isinstance(step, mo.Distill)
    shipped = shipped_curves.curve(step, KNOB, here.model, here.workload)
    found = shipped.beside if shipped else None
    if found is None and launch.kept(setting.other(step.alone)):
        model = at_hand.apply(step.alone, [here.model], here.workload)
        found = mo.measure(model, here.workload, runtime=here.runtime, device=here.device, baseline=here.model)
    return (found.score, "without a teacher") if found else None


def strip(setting: Setting) -> None:
    """Where the curve comes from, if it came with the project."""
    here, step = setting.bench, setting.step
    shipped = shipped_curves.curve(step, KNOB, here.model, here.workload)
    if shipped and here.runtime == "onnx":
        st.html(
            f'<p class="mo-foot"><b>The curve came with the project</b>: each point the mean of {shipped.seeds} seeds, '
            f"the bands from worst to best. Measured on {escape(shipped.machine)}.</p>"
        )
