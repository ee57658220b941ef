"""The tab Bits: a number of bits of its own for any layer, by hand or solved for a budget."""

from __future__ import annotations

from functools import partial

import streamlit as st

import modelopt_core as mo
from modelopt_core import identity
from modelopt_core.errors import ModelOptError
from modelopt_core.quantize import WIDTHS, Width
from modelopt_core.quantize.inspect import names
from modelopt_core.sweep import SWEEPER, Sweep
from pages.shared import address, controls
from pages.shared.bench import Bench
from pages.shared.follow import PATIENCE_S, follow
from pages.shared.trial import Setting

KEY = controls.keys(mo.Quantize)["layer_bits"]
DIAL = 0  # follows it
CHOICES = (DIAL, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
BUDGET = "Quantize budget"
ASKED = "Quantize budget asked"  # (settings, bytes) while the widths are being tried


def settle(here: Bench) -> None:
    """Layers that the bench's model has not are left out, and told."""
    known, held = names(here.model), st.session_state[KEY]
    for layer in (layer for layer, _ in held if layer not in known):
        address.tell(f"Unknown layer {layer!r:.80}; choose from {', '.join(known)}. It is left out.")
    st.session_state[KEY] = tuple(pair for pair in held if pair[0] in known)


def draw(setting: Setting) -> None:
    """Left a choice for each layer, right the solver."""
    left, right = st.columns([3, 2], gap="large")
    own = dict(setting.step.layer_bits)
    with left:
        st.html('<p class="mo-foot"><b>Bits of its own</b> for a layer; the others follow the Dial.</p>')
        with st.container(horizontal=True, gap="small"):
            for layer in names(setting.bench.model):
                key = f"bits {setting.subject} {layer}"
                st.session_state[key] = own.get(layer, DIAL)
                st.selectbox(
                    layer, CHOICES, key=key, format_func=_word, width=130, on_change=_chosen, args=(layer, key)
                )
    with right:
        st.html(
            '<p class="mo-foot"><b>Solved:</b> every layer is tried alone at every width; a knapsack then finds the '
            "bits with the least loss on val in a file of so many bytes.</p>"
        )
        st.number_input("Bytes of the file", 1, 50_000_000, 8_000, step=500, key=BUDGET)
        st.button("Solve", icon=":material/calculate:", type="primary", on_click=_ask, args=(setting,))
        if st.session_state.get(ASKED, ("",))[0] == _key(setting):
            follow("widths", partial(_request, setting), partial(_solve, setting))


def _word(bits: int) -> str:
    return {DIAL: "as the Dial", 32: "32, floats"}.get(bits, str(bits))


def _chosen(layer: str, key: str) -> None:
    """Callback: this layer has these bits from now on."""
    others = tuple(pair for pair in st.session_state[KEY] if pair[0] != layer)
    bits = st.session_state[key]
    st.session_state[KEY] = tuple(sorted(others if bits == DIAL else (*others, (layer, bits))))
    st.rerun()


def _searched(setting: Setting) -> mo.Quantize:
    """The step that is tried on each layer: as set, but for what would train; points are then the nearest."""
    step = setting.step.changed(layer_bits=(), recovery="none")
    return step.changed(rounding="nearest") if step.lasts else step


def _key(setting: Setting) -> str:
    here = setting.bench
    return identity.digest("widths", identity.key(here.model), _searched(setting).model_dump_json(),
                           here.workload.data_hash)  # fmt: skip


def _request(setting: Setting) -> Sweep[Width]:
    """Every layer alone at every width, in the background; kept for the next budget."""
    here = setting.bench
    total = len(names(here.model)) * len(WIDTHS)
    return SWEEPER.request(
        _key(setting), total, lambda: mo.widths(here.model, here.workload, _searched(setting)), patience_s=PATIENCE_S
    )


def _ask(setting: Setting) -> None:
    """Callback: solve for this budget as soon as all widths have been tried."""
    st.session_state[ASKED] = (_key(setting), st.session_state[BUDGET])
    st.rerun()


def _solve(setting: Setting, sweep: Sweep[Width]) -> None:
    """Bits for every layer under the budget, or a line that says why there are none."""
    if not sweep.done:
        return
    here, (_, budget) = setting.bench, st.session_state.pop(ASKED)
    try:
        found = mo.allocate(here.model, here.workload, _searched(setting), budget_bytes=budget, known=sweep.points)
        st.session_state[KEY] = found.layer_bits
    except ModelOptError as error:
        address.tell(sweep.error or str(error))
    st.rerun()
