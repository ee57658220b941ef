"""What the Dial turns: a field of the page's step, or a number that the page makes of several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import streamlit as st

from modelopt_core.steps.base import Knob, Step
from pages.state import controls


@dataclass(frozen=True)
class Handle:
    """name: in tables; at: the step at another value; keep: puts a value into the session, or raises ModelOptError."""

    name: str
    knob: Knob
    title: str
    about: str
    value: float
    at: Callable[[float], Step]
    keep: Callable[[float], None]
    unit: str = ""  # after the value

    @property
    def rail(self) -> dict[str, Any]:
        """What the Dial must know of the knob."""
        return {name: getattr(self.knob, name) for name in ("low", "high", "step", "beyond", "symbol")}


def of_field(step: Step, field: str) -> Handle:
    """The handle that turns one field of a step."""
    info = type(step).model_fields[field]
    kind = int if info.annotation is int else float

    def at(value: float) -> Step:
        return step.changed(**{field: kind(value)})

    return Handle(
        name=field,
        knob=step.knob(field),
        title=info.title or field,
        about=info.description or "",
        value=getattr(step, field),
        at=at,
        keep=partial(_keep, type(step), field, kind),
    )


def _keep(step: type[Step], field: str, kind: type, value: float) -> None:
    st.session_state[controls.keys(step)[field]] = controls.value_from(step, field, str(kind(value)))
