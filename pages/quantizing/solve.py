"""Bits for every layer, solved: for a budget of bytes, or for a drop of the score that is tolerated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import streamlit as st

import modelopt_core as mo
from modelopt_core.machine.digest import digest
from modelopt_core.models import identity
from modelopt_core.steps.quantize import WIDTHS, Width
from modelopt_core.steps.quantize.inspect import names
from modelopt_core.studies.background import SWEEPER, Sweep
from pages.draw import units
from pages.state import address
from pages.state.setting import Setting
from pages.work.follow import PATIENCE_S, follow

BYTES, DROP = "bytes of the file", "points of score"
LIMIT, BUDGET, TOLERATED = "Quantize limit", "Quantize budget", "Quantize tolerated"
ASKED, TRIED = "Quantize asked", "Quantize tried"  # what is being solved, while it is; of which setting all is known


@dataclass(frozen=True)
class Asked:
    """What was asked, of which setting: the least loss in so many bytes, or the smallest file for so many points."""

    key: str
    limit: str
    value: float

    def solve(self, setting: Setting, known: list[Width]) -> Iterator[mo.Quantize]:
        """The step with bits for each layer, as the one point of a sweep."""
        here = setting.bench
        limits: dict[str, Any] = (
            {"budget_bytes": int(self.value)} if self.limit == BYTES else {"tolerated_drop": self.value / 100}
        )
        yield mo.allocate(here.model, here.workload, _searched(setting), known=known, **limits)


def draw(setting: Setting, key: str) -> None:
    """The question, and how far the answer is. key: where the session holds the bits per layer."""
    st.html(
        '<p class="mo-foot"><b>Solved:</b> every layer is tried alone at every width; a knapsack then finds the bits '
        "with the least loss on val under a limit of bytes, or the smallest file within a drop of the score.</p>"
    )
    limit = st.segmented_control("Limit", (BYTES, DROP), default=BYTES, required=True, key=LIMIT)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        if limit == BYTES:
            st.number_input("Bytes, at most", 1, 50_000_000, 8_000, step=500, key=BUDGET, width=160)
        else:
            st.number_input("Points lost, at most", 0.0, 100.0, 1.0, step=0.5, key=TOLERATED, format="%g", width=160)
        st.button("Solve", icon=":material/calculate:", type="primary", on_click=_ask, args=(setting,))
    asked = st.session_state.get(ASKED)
    if asked and asked.key == _key(setting):
        follow("widths", partial(_request, setting, asked), partial(_keep, setting, asked, key))


def _searched(setting: Setting) -> mo.Quantize:
    """The step that is tried on each layer: as set, whatever the Dial says, but for what would train; points are then
    the nearest.
    """
    step = setting.step.changed(bits=8, layer_bits=(), recovery="none")
    return step.changed(rounding="nearest") if step.lasts(setting.bench.workload) else step


def _key(setting: Setting) -> str:
    here = setting.bench
    return digest("widths", identity.key(here.model), _searched(setting).model_dump_json(),
                           here.workload.data_hash)  # fmt: skip


def _tried(setting: Setting) -> Sweep[Width]:
    """Every layer alone at every width."""
    here = setting.bench
    total = len(names(here.model)) * len(WIDTHS)
    return SWEEPER.request(
        _key(setting), total, lambda: mo.widths(here.model, here.workload, _searched(setting)), patience_s=PATIENCE_S
    )


def sensitivity(setting: Setting) -> None:
    """What one layer alone costs at each width, a row a layer; shown once something was solved for this setting."""
    if st.session_state.get(TRIED) != _key(setting) or not (tried := _tried(setting)).done:
        return
    head = "".join(f"<th class=mo-number>{bits}</th>" for bits in WIDTHS)
    rows: dict[str, str] = {}
    for width in tried.points:
        cell = f"<td class=mo-number>{units.points(width.delta.value)}</td>"
        rows[width.layer] = rows.get(width.layer, "") + cell
    body = "".join(f"<tr><td>{escape(layer)}</td>{cells}</tr>" for layer, cells in rows.items())
    st.html(
        '<p class="mo-foot"><b>Sensitivity:</b> how the score on val changes with one layer alone at so many bits.</p>'
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr><th>bits</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _ask(setting: Setting) -> None:
    """Callback: solve for this limit as soon as all widths have been tried."""
    limit = st.session_state[LIMIT]
    st.session_state[ASKED] = Asked(_key(setting), limit, st.session_state[BUDGET if limit == BYTES else TOLERATED])
    st.rerun()


def _request(setting: Setting, asked: Asked) -> Sweep[Any]:
    """In the background: every layer alone at every width, kept for the next limit; then the answer."""
    tried = _tried(setting)
    if not tried.done or tried.error:
        return tried
    key = digest(asked.key, asked.limit, asked.value)
    return SWEEPER.request(key, 1, lambda: asked.solve(setting, tried.points), patience_s=PATIENCE_S)


def _keep(setting: Setting, asked: Asked, key: str, found: Sweep[Any]) -> None:
    """Once it is solved, the bits of every layer; or a line that says why there are none."""
    if not found.done or found is not _request(setting, asked):  # the answer has only been asked for
        return
    st.session_state[TRIED] = st.session_state.pop(ASKED).key
    if found.error:
        address.tell(found.error)
    else:
        st.session_state[key] = found.points[0].layer_bits
    st.rerun()
