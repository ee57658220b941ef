"""A step's fields as widgets: registry name → select box, Literal → segmented control, number → slider.

The step's `Field(...)` lines give title, help, bounds and choices, so a field that is added there appears here.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import streamlit as st
from pydantic.fields import FieldInfo

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.base import ModelName, Step
from modelopt_core.steps.knob import Doublings
from pages.draw import units
from pages.state import address, bench

NARROW, FINE = (10.0, 0.05), 0.001  # a range up to 10 goes by steps of 0.05; a wider one, as of a learning rate, finely


def keys(step: type[Step]) -> dict[str, str]:
    """Field → its key in the session. Pages don't share a key: `Prune.criterion` is not another step's criterion."""
    return {name: f"{step.__name__}.{name}" for name in step.model_fields}


def prepare(step: type[Step]) -> None:
    """Take over what the URL says about the step's fields, and give the others their defaults."""
    for name, key in keys(step).items():
        address.take(name, key, lambda text, name=name: value_from(step, name, text))  # type: ignore[misc]
        st.session_state.setdefault(key, step.model_fields[name].default)
    for name, key in keys(step).items():
        if choices := _choices(step.model_fields[name]):
            _keep_known(key, choices, step.model_fields[name])
    for name, key in keys(step).items():  # which of these there are depends on the others
        if step.registry(name) is not None:
            _keep_known(key, step.choices(name, _values(step)), step.model_fields[name])
    address.own(keys(step))


def _choices(info: FieldInfo) -> list[Any]:
    """The values of a field that has few: a Literal, or numbers that its schema lists."""
    if typing.get_origin(info.annotation) is Literal:
        return list(typing.get_args(info.annotation))
    more = info.json_schema_extra
    return list(more.get("enum", ())) if isinstance(more, dict) else []  # type: ignore[arg-type]


def _values(step: type[Step]) -> dict[str, Any]:
    """What the session holds for the step's fields."""
    return {name: st.session_state[key] for name, key in keys(step).items()}


def value_from(step: type[Step], name: str, text: str) -> object:
    """A field's value from text, checked by the step itself and put on the knob's grid if it has one."""
    info = step.model_fields[name]
    value = getattr(step(**{name: _parts(name, text, info) if _many(info) else text}), name)
    if any(meta.__class__.__name__ == "Knob" for meta in info.metadata):
        knob = step.knob(name)
        low, high = knob.stops[0], knob.stops[-1]
        if not low <= value <= high:
            raise ModelOptError(f"{name}={text} is outside the dial, which goes from {low:g} to {high:g}")
        value = type(value)(knob.nearest(value))
    return value


def _many(info: FieldInfo) -> bool:
    """Is it a tuple, such as a ratio per layer? Such a field has no widget in the row of controls."""
    return typing.get_origin(info.annotation) is tuple


def _parts(name: str, text: str, info: FieldInfo) -> tuple[object, ...]:
    """a,b → ("a", "b"); of a field of pairs a:1,b:2 → (("a", "1"), ("b", "2"))."""
    parts = tuple(filter(None, text.split(",")))
    if typing.get_origin(typing.get_args(info.annotation)[0]) is not tuple:
        return parts
    if wrong := [part for part in parts if not all(part.rpartition(":"))]:
        raise ModelOptError(f"{name}={wrong[0][:80]!r} is no pair; write {name} as conv1:0.5,fc1:0.3")
    return tuple((name, value) for name, _, value in (part.rpartition(":") for part in parts))


def current(step: type[Step]) -> Step:
    """The step as the session's settings have it."""
    return step(**_values(step))


def reset(step: type[Step]) -> None:
    """Callback: every field at its default."""
    for name, key in keys(step).items():
        st.session_state[key] = step.model_fields[name].default


def draw(step: type[Step], *, but: Collection[str], labels: Mapping[str, str], aside: Sequence[str] = ()) -> None:
    """One row of widgets for every field that matters now, but some, as the Dial's.

    labels: a choice → on the screen; aside: fields that stand behind a button at the end of the row.
    """
    fields = [n for n, info in step.model_fields.items() if n not in but and not _many(info)]
    fields = [name for name in fields if step.matters(name, _values(step))]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="controls"):
        for name in fields:
            if name not in aside:
                _widget(step, name, step.model_fields[name], labels)
        if behind := [name for name in fields if name in aside]:
            with st.popover("More", icon=":material/tune:", help=", ".join(map(partial(_title, step), behind))):
                for name in behind:
                    _widget(step, name, step.model_fields[name], labels)


def _title(step: type[Step], name: str) -> str:
    return step.model_fields[name].title or name


def _widget(step: type[Step], name: str, info: FieldInfo, labels: Mapping[str, str]) -> None:
    key, title, about = keys(step)[name], info.title or name, info.description or ""
    registry, annotation = step.registry(name), info.annotation
    how: dict[str, Any] = {"key": key, "persist_state": "session"}
    if registry is not None:
        names = step.choices(name, _values(step))
        entries = "\n".join(f"- **{name}**: {registry[name].summary}" for name in names)
        st.selectbox(title, names, help=f"{about}\n\n{entries}", width=150, **how)
    elif typing.get_origin(annotation) is Literal:
        choices = list(typing.get_args(annotation))
        st.segmented_control(
            title,
            choices,
            format_func=lambda choice: labels.get(str(choice), str(choice)),
            required=True,
            help=about,
            **how,
        )
    elif own := next((mark.own for mark in info.metadata if isinstance(mark, ModelName)), ""):
        st.selectbox(title, (own, *bench.current().workload.models), help=about, width=130, **how)
    elif annotation is str:
        st.text_input(title, help=about, width=150, **how)
    elif numbers := _choices(info):
        st.selectbox(title, numbers, format_func=lambda n: labels.get(str(n), str(n)), help=about, width=130, **how)
    elif annotation is bool:
        st.toggle(title, help=about, **how)
    else:
        _number(title, info, about, how)


def _number(title: str, info: FieldInfo, about: str, how: Mapping[str, Any]) -> None:
    """A whole number by ones or doublings; another by steps that suit its range, written as short as it can be."""
    if doublings := next((mark for mark in info.metadata if isinstance(mark, Doublings)), None):
        stops = sorted({*doublings.stops, st.session_state[how["key"]]})  # a link may hold one between
        st.select_slider(title, stops, format_func=units.whole, help=about, **how)
        return
    kind: type = int if info.annotation is int else float
    low, high = (None if limit is None else kind(limit) for limit in bounds(info))
    if kind is int:
        st.number_input(title, low, high, step=1, help=about, width=130, **how)
    else:
        step = NARROW[1] if high is not None and high <= NARROW[0] else FINE
        st.number_input(title, low, high, step=step, format="%g", help=about, width=130, **how)


def _keep_known(key: str, choices: list[Any], info: FieldInfo) -> None:
    """A value that is no choice (an old snapshot, a forged message) goes back to the default, and is told."""
    value = st.session_state.get(key)
    if value not in choices:
        st.session_state[key] = info.default
        allowed = ", ".join(map(str, choices))
        address.tell(f"{key.rpartition('.')[2]} {value!r} does not fit here; choose from {allowed}. Using the default.")


def bounds(info: FieldInfo) -> tuple[Any, Any]:
    """The inclusive limits that the field declares, None where it has none."""
    found = {name: getattr(meta, name) for meta in info.metadata for name in ("ge", "le") if hasattr(meta, name)}
    return found.get("ge"), found.get("le")
