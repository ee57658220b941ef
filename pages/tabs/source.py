"""The tab Source: what runs. The registered functions themselves, and this setting as Python, JSON and a command."""

from __future__ import annotations

import inspect
from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.base import Step
from pages.state import pin
from pages.state.bench import Bench
from pages.state.pin import came
from pages.state.setting import Setting
from pages.state.stack import Stack
from pages.work.trial import origin


def draw(setting: Setting) -> None:
    """Left the functions that the setting names, right the setting."""
    functions, texts = st.columns([3, 2], gap="large")
    with functions:
        for name, info in type(setting.step).model_fields.items():
            registry = setting.step.registry(name)
            if registry is None:
                continue
            entry = registry[getattr(setting.step, name)]
            st.html(f'<p class="mo-foot">{escape(info.title or name)}: <b>{escape(entry.name)}</b></p>')
            st.code(entry.source, language="python", wrap_lines=True)
        if shown := type(setting.step).shows:
            st.html(f'<p class="mo-foot">{escape(setting.step.name)}: <b>{escape(shown.__name__)}</b></p>')
            st.code(inspect.getsource(shown), language="python", wrap_lines=True)
    with texts:
        st.html('<p class="mo-foot">This setting as Python</p>')
        st.code(python(setting), language="python", wrap_lines=True)
        st.html('<p class="mo-foot">as a recipe: save it as recipe.json</p>')
        st.code(mo.to_json((setting.step,)), language="json")
        st.html('<p class="mo-foot">and run it without a screen</p>')
        st.code(command(setting), language="bash", wrap_lines=True)


def python(setting: Setting) -> str:
    """A program that measures what the cards show."""
    here, pinned = setting.bench, pin.current(setting.bench)
    lines = ["import modelopt_core as mo", "", f"w = {here.workload.call}"]
    against = "model"
    if setting.members:
        best = origin(here, setting.members)
        lines += ["members = [", *(f"    {_made(here, member)}," for member in setting.members), "]"]
        lines += [f"step = {call(setting.step)}", "small = step.apply(members, w)"]
        if best in setting.members:
            lines.append(f"model = members[{setting.members.index(best)}]  # the best")
        else:
            lines.append(f"model = {_made(here, best)}")
    else:
        lines.append(f"model = {_made(here, came(here))}")
        lines += [f"step = {call(setting.step)}", "small = step.apply(model, w)"]
    if pin.chosen(here, pinned):
        against = "pinned"
        lines.append(f"pinned = {_made(here, pinned)}")
    lines.append(f"print(mo.measure(small, w, baseline={against}, runtime={here.runtime!r}, device={here.device!r}))")
    return "\n".join(lines)


def _made(here: Bench, pinned: Stack) -> str:
    """mo.baseline('digits', 'cnn'), or mo.Prune(…).apply(mo.baseline('digits', 'cnn'), w)"""
    made = f"mo.baseline({here.workload.name!r}, {pinned.model_name!r})"
    if pinned.members:
        made = f"[{', '.join(_made(here, one) for one in pinned.members)}]"
    for step in pinned.steps:
        fields = type(step).model_fields
        told = ", ".join(f"{name}={value!r}" for name, value in step if value != fields[name].default)
        made = f"mo.{step.name}({told}).apply({made}, w)"
    return made


def call(step: Step) -> str:
    """mo.Prune(ratio=0.5, criterion='l1', …), one line a field."""
    fields = "".join(f"    {name}={value!r},\n" for name, value in step)
    return f"mo.{step.name}(\n{fields})"


def command(setting: Setting) -> str:
    """The same on the command line."""
    here = setting.bench
    more = "" if here.runtime == "onnx" else f" --runtime {here.runtime}"
    more += "" if here.device == "cpu" else f" --device {here.device}"
    if here.workload.made:
        return "# Inputs that the command line does not have: use the program above."
    if any(one.steps for one in setting.begin):
        return "# Models with steps of their own: use the program above."
    models = [one.model_name for one in setting.begin]
    asked = "".join(f" --model {name}" for name in models)
    return f"modelopt run recipe.json --workload {here.workload.name}{asked}{more}"
