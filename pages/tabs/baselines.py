"""The baselines of a workload, measured on this machine when the page opens."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.measuring.measurement import Measurement
from pages.draw import units
from pages.state.bench import Bench
from pages.state.loaded import load_model
from pages.tabs import examples
from pages.work import line

HEADS = ("model", "score on val", "95 % interval", "parameters", "file", "latency, one example", "quartiles", "MACs")

MOST = {"image": 10, "text": 6}  # examples in the gallery: one row of pictures, two of texts
MOST_CHARACTERS = 130


def draw(here: Bench) -> None:
    """A table of all models of the workload; one whose weights are missing says so in its row."""
    st.html(
        f'<h2 style="font-size:1.25rem;margin:0.6rem 0 0">{escape(here.workload.title)}: the models to start from</h2>'
        f'<p class="mo-foot">{escape(here.workload.note)} Measured now: {escape(here.where)}.</p>'
    )
    with line.asking():
        rows = "".join(_row(here, name) for name in here.workload.models)
    heads = "".join(f"<th{_align(i)}>{escape(head)}</th>" for i, head in enumerate(HEADS))
    st.html(
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _row(here: Bench, name: str) -> str:
    try:
        model = load_model(here.workload.name, name)
        cells = _cells(name, mo.measure(model, here.workload, runtime=here.runtime, device=here.device))
    except ModelOptError as error:
        return f'<tr><td>{escape(name)}</td><td colspan="{len(HEADS) - 1}">{escape(str(error))}</td></tr>'
    return "<tr>" + "".join(f"<td{_align(i)}>{escape(cell)}</td>" for i, cell in enumerate(cells)) + "</tr>"


def _cells(name: str, found: Measurement) -> tuple[str, ...]:
    noisy = " (noisy)" if found.noisy else ""
    return (
        name,
        units.percent(found.score.value),
        f"{units.percent_interval(found.score)}, n = {units.whole(found.score.n)}",
        units.whole(found.parameters),
        units.size(found.size_bytes),
        units.milliseconds(found.latency_ms.value) + noisy,
        units.milliseconds_interval(found.latency_ms),
        units.whole(found.macs),
    )


def _align(column: int) -> str:
    return ' class="mo-number"' if column else ""


def gallery(here: Bench) -> None:
    """What the data looks like: the first example of val of every label."""
    workload = here.workload
    truths = [int(truth) for truth in workload.val.targets]
    cells = "".join(
        f"<figure>{examples.shown(workload, truths.index(label), MOST_CHARACTERS)}"
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for label, name in enumerate(workload.labels[: MOST.get(workload.modality, 6)])
        if label in truths
    )
    st.html(f'<div class="mo-gallery mo-{escape(workload.modality)}">{cells}</div>')
