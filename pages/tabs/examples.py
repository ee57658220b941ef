"""The tab Examples: whose answer changed. Lost ones first, then won, then those that were wrong both times."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
import streamlit as st
from PIL import Image

from modelopt_core.workloads.workload import Workload
from pages.draw import units
from pages.work.trial import Trial

MOST = 36  # pictures on one page; more can't be taken in
MOST_CHARACTERS = 260
ARROW = "\N{RIGHTWARDS ARROW}"
GROUPS = (("lost", "right before, wrong now"), ("won", "wrong before, right now"), ("wrong", "wrong both times"))


def plain(trial: Trial, rows: Sequence[int]) -> Mapping[int, str]:
    """Examples of val as HTML, as they are."""
    return {i: shown(trial.bench.workload, i) for i in rows}


Shown = Callable[[Trial, Sequence[int]], Mapping[int, str]]


def draw(trial: Trial, shown: Shown = plain) -> None:
    """A picture or a text for every changed answer, with truth, both answers and how sure the model was."""
    changed = trial.comparison.changed.tolist()
    if not changed:
        st.html('<p class="mo-foot">No answer changed: on every example of val both models say the same.</p>')
        return
    before, after = trial.said
    group = {i: _group(float(before.scores[i]), float(after.scores[i])) for i in changed}
    for name, meaning in GROUPS:
        members = [i for i in changed if group[i] == name]
        if not members:
            continue
        more = f", the first {MOST} shown" if len(members) > MOST else ""
        st.html(f'<p class="mo-foot"><b>{len(members)} {name}</b>: {meaning}{more}</p>')
        texts = " mo-texts" if trial.bench.workload.modality == "text" else ""
        cells = "".join(_example(trial, i, name, html) for i, html in shown(trial, members[:MOST]).items())
        st.html(f'<div class="mo-changed{texts}">{cells}</div>')


def _group(was: float, now: float) -> str:
    return "lost" if now < was else "won" if now > was else "wrong"


def _example(trial: Trial, i: int, group: str, html: str) -> str:
    before, after = trial.said
    workload = trial.bench.workload
    labels = workload.labels
    truth, was, now = (labels[int(found)] for found in (workload.val.targets[i], before.answers[i], after.answers[i]))
    said = (
        f'truth <b>{escape(truth)}</b><br><span class="mo-tag">{escape(was)} {ARROW} {escape(now)}</span><br>'
        f"<small>sure {units.percent(float(before.confidence[i]))} {ARROW} "
        f"{units.percent(float(after.confidence[i]))}</small>"
    )
    return f'<div class="mo-example mo-{group}">{html}<p>{said}</p></div>'


def shown(workload: Workload, i: int, characters: int = MOST_CHARACTERS) -> str:
    """Example i of val as HTML: a picture (data URI), or its text, cut where it is long."""
    seen = workload.show("val", i) if workload.show else ""
    alt = f"example {i}, truth {workload.labels[int(workload.val.targets[i])]}"
    if isinstance(seen, str):
        return f"<blockquote>{escape(_cut(seen, characters))}</blockquote>"
    return picture(seen, alt)


def picture(seen: object, alt: str) -> str:
    """(h, w) or (h, w, 3) in [0, 1] as HTML."""
    pixels = np.clip(np.asarray(seen) * 255, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters].rsplit(' ', 1)[0]} …"
