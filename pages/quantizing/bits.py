"""The tab Bits: a number of bits of its own for any layer, by hand or solved for a budget."""

from __future__ import annotations

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.quantize.inspect import names
from pages.shared import address, controls
from pages.shared.bench import Bench
from pages.shared.trial import Setting

KEY = controls.keys(mo.Quantize)["layer_bits"]
DIAL = 0  # follows it
CHOICES = (DIAL, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
BUDGET = "Quantize budget"


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
        st.button("Solve", icon=":material/calculate:", type="primary", on_click=_solve, args=(setting,))


def _word(bits: int) -> str:
    return {DIAL: "as the Dial", 32: "32, floats"}.get(bits, str(bits))


def _chosen(layer: str, key: str) -> None:
    """Callback: this layer has these bits from now on."""
    others = tuple(pair for pair in st.session_state[KEY] if pair[0] != layer)
    bits = st.session_state[key]
    st.session_state[KEY] = tuple(sorted(others if bits == DIAL else (*others, (layer, bits))))
    st.rerun()


def _solve(setting: Setting) -> None:
    """Callback: bits for every layer under the budget, or a line that says why there are none."""
    here, step = setting.bench, setting.step.changed(layer_bits=())
    try:
        with st.spinner("Trying every layer at every width"):
            found = mo.allocate(here.model, here.workload, step, budget_bytes=st.session_state[BUDGET])
        st.session_state[KEY] = found.layer_bits
    except ModelOptError as error:
        address.tell(str(error))
    st.rerun()
