"""Layers with a ratio of their own, and frozen ones: the table that sets `Prune.ratios` and `Prune.frozen`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.prune import Unit, units
from pages.state import address, controls
from pages.state.bench import Bench

if TYPE_CHECKING:
    import pandas as pd

KEYS = controls.keys(mo.Prune)
EDITOR = "Prune.editor"
RATIO, FROZEN = "ratio", "frozen"


@dataclass(frozen=True)
class Own:
    """What some layers have of their own. ratios: (layer, ratio) pairs; frozen: names of layers."""

    ratios: tuple[tuple[str, float], ...] = ()
    frozen: tuple[str, ...] = ()

    def ratio(self, unit: Unit) -> float | None:
        """The unit's own ratio, None where it follows the Dial."""
        return next((ratio for name, ratio in self.ratios if name in names_of(unit)), None)

    def is_frozen(self, unit: Unit) -> bool:
        """Does nothing of it go?"""
        return bool(names_of(unit) & set(self.frozen))

    def with_ratio(self, unit: Unit, ratio: float | None) -> Own:
        """The same, but for this unit's ratio; None: it follows the Dial."""
        others = [(name, value) for name, value in self.ratios if name not in names_of(unit)]
        mine = [] if ratio is None else [(unit.name, ratio)]
        return replace(self, ratios=tuple(sorted([*others, *mine])))

    def with_frozen(self, unit: Unit, frozen: bool) -> Own:
        """The same, but the unit is frozen, or no longer."""
        others = set(self.frozen) - names_of(unit)
        return replace(self, frozen=tuple(sorted(others | ({unit.name} if frozen else set()))))


def names_of(unit: Unit) -> set[str]:
    """What the unit may be called: its name, or that of a layer that is part of it."""
    return {unit.name, *unit.layers}


def label(unit: Unit) -> str:
    """conv1, or conv1 + conv2 where they are coupled."""
    return " + ".join(unit.layers) if len(unit.layers) > 1 else unit.name


def units_of(here: Bench, granularity: str) -> Sequence[Unit]:
    """What can be pruned by itself on the bench's model, and what stays."""
    return units(here.model, here.workload.example, granularity)


def held() -> Own:
    """What the session holds."""
    return Own(st.session_state[KEYS["ratios"]], st.session_state[KEYS["frozen"]])


def hold(own: Own) -> None:
    """Put it into the session, checked by the step; what is not allowed is told in one line."""
    try:
        step = controls.current(mo.Prune).changed(ratios=own.ratios, frozen=own.frozen)
        assert isinstance(step, mo.Prune)
    except ModelOptError as error:
        address.tell(str(error))
        return
    st.session_state[KEYS["ratios"]], st.session_state[KEYS["frozen"]] = step.ratios, step.frozen


def settle(here: Bench) -> None:
    """What the session holds goes with the model and the granularity; the rest is left out and told."""
    own = held()
    if own == Own():
        return
    with suppress(ModelOptError):  # an untraceable model: the cards say it
        fitting, told = fit(own, units_of(here, st.session_state[KEYS["granularity"]]))
        if told:
            hold(fitting)
        for line in told:
            address.tell(line)


def fit(own: Own, found: Sequence[Unit]) -> tuple[Own, list[str]]:
    """The part of it that these units can follow, and a line for each thing that is left out."""
    known, choices = {name for unit in found for name in names_of(unit)}, ", ".join(map(label, found))
    given = dict.fromkeys([*dict(own.ratios), *own.frozen])
    told = [f"Unknown layer {n!r:.80}; choose from {choices}. It is left out." for n in given if n not in known]
    for unit in found:
        asked = {ratio for name, ratio in own.ratios if name in names_of(unit)}
        if len(asked) > 1:
            told.append(f"{label(unit)} are coupled and need one ratio, not {len(asked)}. They follow the Dial.")
            own = own.with_ratio(unit, None)
        elif unit.stays and any(asked):
            told.append(f"Channels of {label(unit)} can't be cut: {unit.stays}. Its ratio is left out.")
            own = own.with_ratio(unit, None)
    ratios = tuple(pair for pair in own.ratios if pair[0] in known)
    return Own(ratios, tuple(name for name in own.frozen if name in known)), told


def still(here: Bench, granularity: str) -> tuple[str, ...]:
    """A line for the user where the Dial moves nothing, because no layer follows it."""
    own = held()
    follow = [u for u in units_of(here, granularity) if not u.stays and not own.is_frozen(u) and own.ratio(u) is None]
    return () if follow else ("Every layer has a ratio of its own or is frozen: the Dial moves nothing.",)


def edit(here: Bench, granularity: str) -> None:
    """The table: one row a unit that can lose something; an empty ratio follows the Dial."""
    found = [unit for unit in units_of(here, granularity) if not unit.stays]
    base, key = _base(found)
    st.html('<p class="mo-foot"><b>A ratio of its own</b> for a layer; left empty, it follows the Dial.</p>')
    st.data_editor(
        table(found, base),
        hide_index=True,
        key=key,
        on_change=_edited,
        args=(key, found, base),
        placeholder="as the Dial",
        disabled=["layer", "size"],
        alt="Ratio and frozen switch of every layer",
        column_config={
            "layer": st.column_config.TextColumn("layer"),
            "size": st.column_config.NumberColumn("channels" if granularity == "channel" else "weights"),
            RATIO: st.column_config.NumberColumn("ratio", min_value=0.0, max_value=0.99, step=0.01, format="%.2f"),
            FROZEN: st.column_config.CheckboxColumn("frozen", help="Nothing of this layer goes."),
        },
    )


def table(found: Sequence[Unit], own: Own) -> pd.DataFrame:
    """A row a unit: layer, size, ratio (NaN: as the Dial), frozen."""
    import pandas as pd  # a quarter of a second, and the cards come first

    ratios = pd.array([own.ratio(unit) for unit in found], dtype="Float64")
    sizes, frozen = [unit.size for unit in found], [own.is_frozen(unit) for unit in found]
    return pd.DataFrame({"layer": [label(u) for u in found], "size": sizes, RATIO: ratios, FROZEN: frozen})


def edited(own: Own, found: Sequence[Unit], rows: Mapping[Any, Mapping[str, Any]]) -> Own:
    """What the table says after the user's edits. rows: row → column → new value, as the browser sends them."""
    for row, cells in rows.items():
        if not str(row).isdigit() or int(row) >= len(found):
            continue
        unit = found[int(row)]
        if RATIO in cells:
            own = own.with_ratio(unit, None if cells[RATIO] is None else _number(cells[RATIO]))
        if FROZEN in cells:
            own = own.with_frozen(unit, bool(cells[FROZEN]))
    return own


def _number(cell: Any) -> float:
    try:
        return round(float(cell), 4)
    except (TypeError, ValueError):
        raise ModelOptError(f"ratio={str(cell)[:40]!r} is not a number; write one from 0 to 0.99") from None


def _base(found: Sequence[Unit]) -> tuple[Own, str]:
    """What the table shows beneath the user's edits, and its key in the session.

    The browser keeps the edits as long as the key is the same. Where the session holds something else than the edits
    made (undo, reset, a link, another model), the table begins anew under another key.
    """
    state = st.session_state
    names, base, count = state.get(EDITOR, ((), Own(), 0))
    key = f"{EDITOR}.{count}"
    rows = (state.get(key) or {}).get("edited_rows", {})
    with suppress(ModelOptError):
        if names == tuple(unit.name for unit in found) and edited(base, found, rows) == held():
            return base, key
    state[EDITOR] = (tuple(unit.name for unit in found), held(), count + 1)
    return held(), f"{EDITOR}.{count + 1}"


def _edited(key: str, found: Sequence[Unit], base: Own) -> None:
    """Callback of the table: take the edits over, then rerun the page, whose curve is another one now.

    A browser that has not heard yet that the table began anew sends the old one's edits once more: they are done with.
    """
    if key != f"{EDITOR}.{st.session_state[EDITOR][2]}":
        return
    _take(lambda: edited(base, found, (st.session_state.get(key) or {}).get("edited_rows", {})))


def give(unit: Unit, ratio: float) -> None:
    """Callback: this unit has this ratio from now on, and is not frozen."""
    _take(lambda: held().with_ratio(unit, ratio).with_frozen(unit, False))


def _take(make: Callable[[], Own]) -> None:
    try:
        hold(make())
    except ModelOptError as error:
        address.tell(str(error))
    st.rerun()
