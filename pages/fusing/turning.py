"""What the Dial turns: how far from the first network to the last, the scale of the changes, or the head's pull."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.base import Knob
from modelopt_core.steps.fuse import alike, learned
from modelopt_core.tasks.statistics import Estimate, mean_interval
from pages.combining.weights import place, shared_out
from pages.draw.say import plain
from pages.state import address, at_hand, controls, pool, stack
from pages.state.bench import Bench
from pages.state.knob import Handle
from pages.state.setting import Setting

OF, WEIGHTS, SELECT, SCALE, STRENGTHS = (f"Fuse.{name}" for name in ("of", "weights", "select", "scale", "strengths"))
DIAL = "Fuse.dial"
BETWEEN = Knob(0.0, 1.0, 0.02, "t")
FARTHER = Knob(0.0, 2.0, 0.05, "λ")
PULL = Knob(-4.0, 1.0, 0.25, "lg λ")


def settle(here: Bench) -> None:
    """As many weights as networks that are merged, and a member among them that the Dial turns: the last, if unsaid."""
    state, n = st.session_state, _merged(here)
    address.take("dial", DIAL, lambda text: place(text, n))
    if state.get(WEIGHTS) and len(state[WEIGHTS]) != n:
        state[WEIGHTS] = ()
    if (state.get(DIAL) or n) >= n:
        state[DIAL] = None


def turn(step: mo.Fuse, here: Bench) -> Handle:
    """Of weights one network's share or, from a base, the scale; of outputs and features the pull."""
    if step.of != "weights":
        return _pull(step, here)
    return _scale(step) if mo.MERGES[step.merge]["needs_base"] else _share(step, here)


def _share(step: mo.Fuse, here: Bench) -> Handle:
    members = pool.current("Fuse", here)
    n, names = len(members), stack.names(members)
    turned = _turned(n)
    weights = step.weights or (1.0,) * n
    with suppress(ModelOptError):  # the cards say it
        weights = step.shares(stack.models(members, here.workload), here.workload)
    weights = tuple(w / sum(weights) for w in weights)

    def at(value: float) -> mo.Fuse:
        return step.changed(select="all", weights=shared_out(weights, turned, value))

    def keep(value: float) -> None:
        st.session_state[WEIGHTS] = at(min(1.0, max(0.0, value))).weights
        st.session_state[SELECT] = "all"

    name = names[turned]
    about = f"0 is {names[0] if n == 2 else 'the others'}, 1 is {name}."
    unit = "" if n == 2 else f"for {name}"
    return Handle(f"share of {name}", BETWEEN, f"Share of {name}", about, round(weights[turned], 2), at, keep, unit)


def _turned(n: int) -> int:
    """Whose share the Dial turns, 0 … n − 1; between two networks it goes from the first to the last."""
    return int(st.session_state.get(DIAL) or n) - 1 if n > 2 else n - 1


def _scale(step: mo.Fuse) -> Handle:
    def at(value: float) -> mo.Fuse:
        return step.changed(scale=value)

    def keep(value: float) -> None:
        st.session_state[SCALE] = at(value).scale

    about = "0 is the base, the first member; 1 adds what the others changed."
    return Handle("scale", FARTHER, "Scale of the changes", about, min(FARTHER.high, step.scale), at, keep)


def _pull(step: mo.Fuse, here: Bench) -> Handle:
    value = PULL.high
    with suppress(ModelOptError):  # the cards say it, also where a job must find it first
        whole = at_hand.apply(step, stack.models(pool.current("Fuse", here), here.workload), here.workload)
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
        whole = mo.Ensemble(rule="geometric", weights=()).apply(
            stack.models(setting.members, here.workload), here.workload
        )
    except ModelOptError:
        return None
    found = mo.predictions(whole, here.workload, runtime=here.runtime, device=here.device)
    return mean_interval(found.scores.numpy()), "plain average"


def strip(setting: Setting) -> None:
    """Whose share the Dial turns, where there are more than two; where weights can't be merged, what can be done."""
    step, members = setting.step, setting.members
    if step.of != "weights":
        return
    try:
        alike(stack.models(members, setting.bench.workload))
        if len(members) > 2 and not mo.MERGES[step.merge]["needs_base"]:
            _choose(stack.names(members))
    except ModelOptError:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html('<p class="mo-foot">These members differ in architecture: there is no straight line between them. '
                    "What they say can be fused, whatever they are.</p>")  # fmt: skip
            for of in ("outputs", "features"):
                st.button(plain(f"Fuse {of}"), on_click=fuse, args=(of,), key=f"Fuse.instead.{of}",
                          type="primary" if of == "outputs" else "secondary")  # fmt: skip


def _choose(names: Sequence[str]) -> None:
    """The member that the Dial turns."""
    key = f"{DIAL}.choice"
    st.session_state[key] = _turned(len(names))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.html('<p class="mo-foot">The Dial turns the share of</p>', width="content")
        st.selectbox("Share that the Dial turns", range(len(names)), format_func=lambda at: names[at], key=key,
                     on_change=_turn, args=(key,), width=200, label_visibility="collapsed")  # fmt: skip
        st.html('<p class="mo-foot">The others share the rest in proportion.</p>', width="content")


def _turn(key: str) -> None:
    """Callback: the Dial turns another member from now on."""
    st.session_state[DIAL] = st.session_state[key] + 1
    st.rerun()


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
