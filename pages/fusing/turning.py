"""What the Dial turns: how far from the first network to the last, the scale of the changes, or the head's pull."""

from __future__ import annotations

import math
from contextlib import suppress

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.estimate import Estimate, mean_interval
from modelopt_core.fuse import alike, learned
from modelopt_core.step import Knob
from pages.combining.weights import shared_out
from pages.shared import controls, pool
from pages.shared.bench import Bench
from pages.shared.handle import Handle
from pages.shared.setting import Setting

OF, WEIGHTS, SELECT, SCALE, STRENGTHS = (f"Fuse.{name}" for name in ("of", "weights", "select", "scale", "strengths"))
BETWEEN = Knob(0.0, 1.0, 0.02, "t")
FARTHER = Knob(0.0, 2.0, 0.05, "λ")
PULL = Knob(-4.0, 1.0, 0.25, "lg λ")


def settle(here: Bench) -> None:
    """As many weights as networks that are merged."""
    state = st.session_state
    if state.get(WEIGHTS) and len(state[WEIGHTS]) != _merged(here):
        state[WEIGHTS] = ()


def turn(step: mo.Fuse, here: Bench) -> Handle:
    """Of weights the last network's share or, from a base, the scale; of outputs and features the pull."""
    if step.of != "weights":
        return _pull(step, here)
    return _scale(step) if mo.MERGES[step.merge]["needs_base"] else _share(step, here)


def _share(step: mo.Fuse, here: Bench) -> Handle:
    members = pool.current("Fuse", here)
    n, names = len(members), pool.names(members)
    weights = step.weights or (1.0,) * n
    with suppress(ModelOptError):  # the cards say it
        weights = step.shares(pool.models(members, here), here.workload)
    weights = tuple(w / sum(weights) for w in weights)

    def at(value: float) -> mo.Fuse:
        return step.changed(select="all", weights=shared_out(weights, n - 1, value))

    def keep(value: float) -> None:
        st.session_state[WEIGHTS] = at(min(1.0, max(0.0, value))).weights
        st.session_state[SELECT] = "all"

    about = f"0 is {names[0] if n == 2 else 'the others'}, 1 is {names[-1]}."
    return Handle(f"share of {names[-1]}", BETWEEN, f"Share of {names[-1]}", about, round(weights[-1], 2), at, keep)


def _scale(step: mo.Fuse) -> Handle:
    def at(value: float) -> mo.Fuse:
        return step.changed(scale=value)

    def keep(value: float) -> None:
        st.session_state[SCALE] = at(value).scale

    about = "0 is the base, the first member; 1 adds what the others changed."
    return Handle("scale", FARTHER, "Scale of the changes", about, min(FARTHER.high, step.scale), at, keep)


def _pull(step: mo.Fuse, here: Bench) -> Handle:
    value = PULL.high
    with suppress(ModelOptError):  # the cards say it
        whole = step.apply(pool.models(pool.current("Fuse", here), here), here.workload)
        if found := learned(whole):
            value = min(PULL.high, max(PULL.low, math.log10(found.strength)))

    def at(value: float) -> mo.Fuse:
        return step.changed(strengths=(float(f"{10**value:.4g}"),))

    def keep(value: float) -> None:
        st.session_state[STRENGTHS] = at(min(PULL.high, max(PULL.low, value))).strengths

    about = "To the right the head only weighs the members, to the left it follows val wherever that leads."
    return Handle("log₁₀ pull", PULL, "Pull towards a weighted average", about, value, at, keep)


def reference(setting: Setting) -> tuple[Estimate, str] | None:
    """What a learned head is to beat: the plain average of what the members say."""
    if setting.step.of == "weights":
        return None
    here = setting.bench
    try:
        whole = mo.Ensemble(rule="geometric", weights=()).apply(pool.models(setting.members, here), here.workload)
    except ModelOptError:
        return None
    found = mo.predictions(whole, here.workload, runtime=here.runtime, device=here.device)
    return mean_interval(found.scores.numpy()), "plain average"


def strip(setting: Setting) -> None:
    """Where weights can't be merged: what can be done instead."""
    if setting.step.of != "weights":
        return
    try:
        alike(pool.models(setting.members, setting.bench))
    except ModelOptError:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html('<p class="mo-foot">These members differ in architecture: there is no straight line between them. '
                    "What they say can be fused, whatever they are.</p>")  # fmt: skip
            for of in ("outputs", "features"):
                st.button(f"Fuse {of}", on_click=fuse, args=(of,), key=f"Fuse.instead.{of}",
                          type="primary" if of == "outputs" else "secondary")  # fmt: skip


def fuse(of: str) -> None:
    """Callback: of what from now on."""
    st.session_state[OF] = of
    st.rerun()


def follow_folds() -> None:
    """Callback: the folds choose the pull again."""
    st.session_state[STRENGTHS] = ()
    st.rerun()


def _merged(here: Bench) -> int:
    """How many networks are merged: the base is none of them."""
    merge = mo.MERGES[st.session_state[controls.keys(mo.Fuse)["merge"]]]
    return len(pool.current("Fuse", here)) - bool(merge["needs_base"])
