"""What the user has released so far: the trail that undo walks back, the table of runs, and named snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from modelopt_core.measuring.measurement import Measurement
from modelopt_core.steps.base import Knob, Step
from pages.state import stack
from pages.state.setting import Setting
from pages.state.stack import Stack

BENCH_KEYS = ("workload", "model", "device", "runtime")  # the view is how one looks, not what one looks at
MOST_RUNS, MOST_STEPS_BACK, MOST_SNAPSHOTS = 500, 200, 50

Values = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Run:
    """One released setting and what was measured for it. begin: the model that the step works on, or its members."""

    bench_key: str
    workload: str
    begin: tuple[Stack, ...]
    step: Step
    measurement: Measurement

    @property
    def made(self) -> Stack:
        """The result."""
        return stack.made(self.step, self.begin)

    @property
    def model(self) -> str:
        """cnn, or cnn + mlp"""
        return " + ".join(one.name for one in self.begin)

    @property
    def setting(self) -> str:
        """Prune 0.5 · l1 · channel · layer · rounds 1 · norms"""
        fields = dict(self.step)
        told = [self._told(name, value) for name, value in self.step if value != () and self.step.matters(name, fields)]
        return f"{self.step.name} {' · '.join(told)}"

    def _told(self, name: str, value: object) -> str:
        """The value; a number that is not the Dial's with its name."""
        info = type(self.step).model_fields[name]
        number = isinstance(value, int | float) and not any(isinstance(meta, Knob) for meta in info.metadata)
        return f"{(info.title or name).lower()} {value}" if number else str(value)


@dataclass(frozen=True)
class Snapshot:
    """A setting that the user gave a name, to come back to in front of an audience."""

    name: str
    values: tuple[tuple[str, object], ...]


def values(fields: Mapping[str, str]) -> dict[str, object]:
    """All that undo restores: the bench's settings and the page's. fields: name → key in the session."""
    return {key: st.session_state[key] for key in (*BENCH_KEYS, *fields.values()) if key in st.session_state}


def record(page: str, fields: Mapping[str, str], setting: Setting, measurement: Measurement) -> None:
    """Note a released setting: on the page's trail, and in the runs if it is news there."""
    note(page, fields)
    found, here, begin, step = runs(), setting.bench, setting.begin, setting.step
    if here.workload.made:  # altered inputs: no score beside the others'
        return
    if not any((run.bench_key, run.begin, run.step) == (here.key, begin, step) for run in found):
        found.append(Run(here.key, here.workload.name, begin, step, measurement))
        del found[:-MOST_RUNS]


def note(page: str, fields: Mapping[str, str]) -> None:
    """Put the present setting on the page's trail if it is news there. Undo goes back to it, measured or not."""
    trail = st.session_state.setdefault(f"{page}.trail", [])
    now = values(fields)
    if not trail or trail[-1] != now:
        trail.append(now)
        del trail[:-MOST_STEPS_BACK]


def runs() -> list[Run]:
    """The released settings of this session, oldest first."""
    found: list[Run] = st.session_state.setdefault("runs", [])
    return found


def can_undo(page: str) -> bool:
    """Is there an earlier setting to go back to?"""
    return len(st.session_state.get(f"{page}.trail", [])) > 1


def undo(page: str) -> None:
    """Callback: the setting before this one."""
    trail = st.session_state.get(f"{page}.trail", [])
    if len(trail) > 1:
        trail.pop()
        apply(trail[-1])


def apply(settings: Values) -> None:
    """Callback: put settings into the session, before the widgets are drawn."""
    for key, value in settings.items():
        st.session_state[key] = value


def snapshots(page: str) -> list[Snapshot]:
    """The page's named settings, in the order in which they were taken."""
    found: list[Snapshot] = st.session_state.setdefault(f"{page}.snapshots", [])
    return found


def snap(page: str, fields: Mapping[str, str], name: str) -> None:
    """Callback: keep the present setting under a name."""
    kept = snapshots(page)
    kept.append(Snapshot(name.strip()[:60] or f"Snapshot {len(kept) + 1}", tuple(values(fields).items())))
    del kept[:-MOST_SNAPSHOTS]
    st.session_state[f"{page}.snapshot"] = len(kept) - 1


def go(page: str, by: int) -> None:
    """Callback: the next or the previous snapshot, round and round."""
    kept = snapshots(page)
    if kept:
        at = (st.session_state.get(f"{page}.snapshot", -1 if by > 0 else 0) + by) % len(kept)
        st.session_state[f"{page}.snapshot"] = at
        apply(dict(kept[at].values))
