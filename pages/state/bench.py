"""The bench: which workload, which model, where it runs. Chosen in the sidebar, the same for every page."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

import streamlit as st
from torch import nn

import modelopt_core as mo
from modelopt_core.errors import DataMissing, ModelOptError, unknown
from modelopt_core.runtime import inference
from modelopt_core.workloads.workload import Workload
from pages.draw import say, units
from pages.draw.say import plain
from pages.state import address
from pages.state.loaded import load_model, load_workload
from pages.state.stack import Stack

VIEWS = ("learn", "tune", "present")
RUNTIMES = {"onnx": "ONNX Runtime", "eager": "PyTorch, eager"}
DEVICES = {"cpu": "CPU", "cuda": "CUDA", "mps": "Apple MPS"}
TITLES = {"mnist": "MNIST"}
FALLBACK = "digits"  # its data comes with scikit-learn


@dataclass(frozen=True, eq=False)
class Bench:
    """What the pages work on. problem: one line where the chosen workload could not be had and digits stands in.

    came: what the model was made of where it is none of the zoo.
    """

    workload: Workload
    model_name: str
    model: nn.Module
    runtime: str
    device: str
    view: str
    problem: str = ""
    came: Stack | None = None

    @property
    def where(self) -> str:
        """CPU · 1 thread · ONNX Runtime"""
        return f"{DEVICES[self.device]} · 1 thread · {RUNTIMES[self.runtime]}"

    @property
    def key(self) -> str:
        """What two benches share if their models give the same numbers."""
        return f"{self.workload.name}/{self.model_name}/{self.runtime}/{self.device}"


@st.cache_resource(show_spinner=False)
def settle() -> None:
    """Once the libraries are loaded: keep the garbage collector from walking them again, 0.2 s beside torch."""
    gc.collect()
    gc.freeze()


def current() -> Bench:
    """The bench as the session's settings have it.

    Where data or weights are absent or damaged, the next best and the reason: another model of the workload, digits.
    """
    state, problem = st.session_state, ""
    for workload_name in dict.fromkeys((state["workload"], FALLBACK)):
        try:
            workload = load_workload(workload_name)
        except DataMissing as error:
            problem = problem or str(error)
            continue
        for name in sorted(workload.models, key=lambda name: name != state["model"]):  # the chosen one first
            try:
                model = load_model(workload_name, name)
            except DataMissing as error:
                problem = problem or str(error)
            else:
                return Bench(workload, name, model, state["runtime"], state["device"], state["view"], problem)
    raise ModelOptError(problem)


def prepare() -> Bench:
    """Take over what the URL says, and put every setting at a value that exists."""
    state = st.session_state
    devices = inference.devices()
    allowed: dict[str, Iterable[str]] = {
        "workload": mo.WORKLOADS, "view": VIEWS, "device": devices, "runtime": RUNTIMES,
    }  # fmt: skip
    defaults = {"workload": FALLBACK, "view": "tune", "device": "cpu", "runtime": "onnx", "model": "", "pin": ""}
    for name, choices in allowed.items():
        address.take(name, name, lambda text, name=name, choices=choices: one_of(name, text, choices))  # type: ignore[misc]
    for name, value in defaults.items():
        if state.get(name) is None:
            state[name] = value
    if state["device"] != "cpu" and state["runtime"] == "onnx":
        state["runtime"] = "eager"  # ONNX Runtime is measured on the processor only
    workload = current().workload
    address.take("model", "model", lambda text: one_of(f"{workload.name} model", text, workload.models))
    if state.get("model") not in workload.models:
        state["model"] = workload.models[0]
    settle()
    return current()


def presenting() -> bool:
    """Is the view Present, in which the sidebar steps aside?"""
    return bool(st.session_state.get("view", st.query_params.get("view")) == "present")


def one_of(kind: str, text: str, choices: Iterable[str]) -> str:
    """`text`, or the core's error that names the choices."""
    names = list(choices)
    if text not in names:
        raise unknown(kind, text, names)
    return text


def title(workload: str) -> str:
    """The workload's name for people; known before its data is loaded."""
    return TITLES.get(workload, workload.capitalize())


def choose(here: Bench) -> None:
    """The two selects at the top of the sidebar."""
    st.selectbox("Workload", list(mo.WORKLOADS), format_func=title, key="workload", persist_state="session",
                 help=plain(here.workload.note))  # fmt: skip
    if here.problem:
        say.warning(
            f"{here.problem}. Showing {here.workload.title}, {here.model_name} meanwhile.",
            icon=":material/database_off:",
        )
    st.selectbox("Model", here.workload.models, format_func=lambda name: _described(here.workload.name, name),
                 key="model", persist_state="session", help="Trained weights that come with the project.")  # fmt: skip


def run_settings() -> None:
    """Runtime and device; the device only where there is a choice."""
    devices = inference.devices()
    runtimes = list(RUNTIMES) if st.session_state["device"] == "cpu" else ["eager"]
    st.selectbox("Runtime", runtimes, format_func=RUNTIMES.__getitem__, key="runtime", persist_state="session",
                 help="What runs the network. Latency is always of one example on one thread.")  # fmt: skip
    if len(devices) > 1:
        st.selectbox("Device", devices, format_func=DEVICES.__getitem__, key="device", persist_state="session")


def _described(workload: str, name: str) -> str:
    """cnn · 21 k · 84 kB: parameters, and their bytes as 32-bit floats."""
    try:
        parameters = sum(p.numel() for p in load_model(workload, name).parameters())
    except ModelOptError:
        return name
    return f"{name} · {units.short(parameters)} · {units.size(4 * parameters)}"
