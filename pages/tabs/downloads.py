"""The result of a setting as a file: made when it is asked for, not while the page is drawn."""

from __future__ import annotations

from functools import partial

import streamlit as st

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.runtime import handout, onnx_export
from pages.draw.say import plain
from pages.work.trial import Trial

KINDS = (
    (".mopt", "The compact file whose bytes are counted, with its recipe and score in it; mo.load reads it."),
    (".onnx", "The very graph that ONNX Runtime ran here, with integers where integer kernels ran."),
    (
        "-float.onnx",
        "The same network in floats, for programs that know no integers.",
    ),
    (".safetensors", "The weights as floats, for a program that has the architecture itself."),
)


def row(trial: Trial) -> None:
    """A button a format."""
    name = f"{trial.subject}-{trial.step.name}".lower().replace(" ", "")
    with st.container(horizontal=True, gap="small"):
        for kind, about in KINDS:
            st.download_button(plain(kind.removeprefix("-")), partial(contents, trial, kind), f"{name}{kind}",
                               "application/octet-stream", icon=":material/download:", on_click="ignore",
                               key=f"download{kind}", help=plain(about))  # fmt: skip


def contents(trial: Trial, kind: str) -> bytes:
    """The bytes of the file. ModelOptError where the format has no word for the model."""
    model, here = trial.after, trial.bench
    if kind.endswith(".onnx"):
        return handout.onnx_file(model, here.workload, "as_run" if kind == ".onnx" else "float")
    if kind == ".safetensors":
        return onnx_export.safetensors_bytes(model)
    note = mo.provenance(
        (trial.step,), trial.measurement, runtime=here.runtime, device=here.device, seed=0, model=[here.model_name]
    )
    return mopt.encode(model, note)
