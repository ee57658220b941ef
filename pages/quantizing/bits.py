"""The tab Bits: a table in which any layer may have bits of its own, set by hand or solved for."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.quantize.inspect import LayerError, layer_errors, names
from pages.draw import units
from pages.draw.say import plain
from pages.quantizing import solve
from pages.state import address, controls
from pages.state.bench import Bench
from pages.state.setting import Setting
from pages.work.trial import Trial

KEY = controls.keys(mo.Quantize)["layer_bits"]
DIAL = 0  # follows it
CHOICES = (DIAL, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
COLUMNS = {"layer": 3, "weights": 2, "bits": 4, "signal to noise": 3, "in the file": 2}  # title → width


def settle(here: Bench) -> None:
    """Layers that the bench's model has not are left out, and told."""
    known, held = names(here.model), st.session_state[KEY]
    for layer in (layer for layer, _ in held if layer not in known):
        address.tell(f"Unknown layer {layer!r:.80}; choose from {', '.join(known)}. It is left out.")
    st.session_state[KEY] = tuple(pair for pair in held if pair[0] in known)


def draw(setting: Setting) -> None:
    """Left the table, right the solver, below what it found out."""
    left, right = st.columns([5, 3], gap="large")
    with left, st.container(gap=None, key="bits-table"):
        _table(setting)
    with right:
        solve.draw(setting, KEY)
    solve.sensitivity(setting)


def _table(setting: Setting) -> None:
    """A row a layer; where the setting is measured, with what it cost."""
    here, own = setting.bench, dict(setting.step.layer_bits)
    rows = {row.layer: row for row in layer_errors(here.model, setting.after)} if isinstance(setting, Trial) else {}
    for column, title in zip(_columns(), COLUMNS, strict=True):
        column.html(f'<span class="mo-foot">{title}</span>')
    for layer in names(here.model):
        name, count, choice, *cost = _columns()
        name.html(escape(layer))
        count.html(units.whole(here.model.get_parameter(f"{layer}.weight").numel()))
        key = f"bits {setting.subject} {layer}"
        st.session_state[key] = own.get(layer, DIAL)
        choice.selectbox(plain(layer), CHOICES, key=key, format_func=_word, label_visibility="collapsed",
                         on_change=_chosen, args=(layer, key))  # fmt: skip
        for column, text in zip(cost, _cost(rows[layer]) if layer in rows else ("", ""), strict=True):
            column.html(text)
    if own.keys() >= set(names(here.model)):
        st.caption("Every layer has bits of its own: the Dial moves nothing.")


def _columns() -> list[st.delta_generator.DeltaGenerator]:
    return st.columns(list(COLUMNS.values()), vertical_alignment="center")


def _cost(row: LayerError) -> tuple[str, str]:
    return units.decibels(row.snr_db), units.size(row.size_bytes)


def _word(bits: int) -> str:
    return {DIAL: "as the Dial", 32: "32, floats"}.get(bits, str(bits))


def _chosen(layer: str, key: str) -> None:
    """Callback: this layer has these bits from now on."""
    others = tuple(pair for pair in st.session_state[KEY] if pair[0] != layer)
    bits = st.session_state[key]
    st.session_state[KEY] = tuple(sorted(others if bits == DIAL else (*others, (layer, bits))))
    st.rerun()
