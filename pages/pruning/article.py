"""The tab Article: the example of the article behind this project in one click, and its call in a form that runs."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from pages.draw import say
from pages.draw.say import plain
from pages.state import controls, history
from pages.state.loaded import load_model, load_workload
from pages.state.setting import Setting

WORKLOAD, MODEL = "mnist", "article"
FIELDS: dict[str, object] = {
    "ratio": 0.5, "criterion": "l1", "granularity": "weight", "scope": "layer", "recovery": "none",
    "rounds": 1, "ratios": (), "frozen": ("conv2", "fc"),
}  # fmt: skip
CODE = """\
import torch
from torch.nn.utils import prune

import modelopt_core as mo

w = mo.workload("mnist")
net = mo.baseline("mnist", "article")

# PyTorch wants (module, name of the tensor) pairs and a class
pairs = [(net.conv1, "weight")]
prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.5)
prune.remove(net.conv1, "weight")  # the mask becomes part of it

# The same as a step: half of conv1, nothing of the others
step = mo.Prune(
    ratio=0.5,
    granularity="weight",
    recovery="none",
    frozen=("conv2", "fc"),
)
same = step.apply(mo.baseline("mnist", "article"), w)

print(torch.equal(net.conv1.weight, same.conv1.weight))
"""
WRONG = (
    ("what to prune", "the module itself", "a list of (module, tensor's name) pairs"),
    ("how", "a string, under the name prune_method", "a class such as L1Unstructured, as pruning_method"),
)


def draw(_: Setting) -> None:
    """Left the button and what was wrong, right the code."""
    words, code = st.columns([2, 3], gap="large")
    problem = missing()
    with words:
        st.html(
            '<p class="mo-foot"><b>Half of the first convolution, by magnitude.</b> The article prunes '
            "<code>conv1</code> of a small network (two 5×5 convolutions of 20 maps, one linear layer) by L1, and "
            "nothing else. Here the other layers are frozen, so the Dial turns <code>conv1</code> alone.</p>"
        )
        st.button("Set this example", icon=":material/play_arrow:", type="primary", key="article", on_click=apply,
                  disabled=bool(problem),
                  help=plain(problem) or "Workload, model and step; Undo takes it back.")  # fmt: skip
        if problem:
            say.caption(problem)
        rows = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td><td>{escape(c)}</td></tr>" for a, b, c in WRONG)
        st.html(
            '<p class="mo-foot">Its call does not run as printed:</p>'
            '<div class="mo-scroll mo-wrap"><table class="mo-table"><thead><tr><th>argument</th><th>printed</th>'
            f"<th>PyTorch wants</th></tr></thead><tbody>{rows}</tbody></table></div>"
            '<p class="mo-foot">Its network, too, lacks the two poolings that its last layer counts on; here it has '
            "them.</p>"
        )
    with code:
        st.html('<p class="mo-foot">In a form that runs: it prints True.</p>')
        st.code(CODE, language="python", wrap_lines=True)


def missing() -> str:
    """Why the example can't be had here, in one line, or empty."""
    try:
        load_workload(WORKLOAD)
        load_model(WORKLOAD, MODEL)
    except ModelOptError as error:
        return str(error)
    return ""


def apply() -> None:
    """Callback: workload, model and step of the example."""
    keys = controls.keys(mo.Prune)
    history.apply({"workload": WORKLOAD, "model": MODEL, **{keys[name]: value for name, value in FIELDS.items()}})
    st.rerun()
