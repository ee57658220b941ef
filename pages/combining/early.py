"""The tab Early and wrong: what left before the last stage with a wrong answer, the surest first."""

from __future__ import annotations

from html import escape

import streamlit as st

from pages.combining import said, stages
from pages.draw import units
from pages.tabs import examples
from pages.work.trial import Trial

MOST = 36


def draw(trial: Trial) -> None:
    """Pictures or texts, with the stage that let them go and what the last stage would have said."""
    workload, names = trial.bench.workload, said.names(trial)
    found, (confidence, _), (answers, right) = stages.happened(trial), said.gates(trial), said.answers(trial)
    wrong = found.early_and_wrong().tolist()
    saved = sum(int(right[-1, i]) for i in wrong)
    st.html(
        f'<p class="mo-foot"><b>{units.whole(len(wrong))} left early and wrong</b>; {units.whole(saved)} of them the '
        "last stage would have known better. The surest come first: no threshold helps there, a better first stage "
        "does.</p>"
    )
    sure = {i: float(confidence[found.at[i], i]) for i in wrong}
    cells = []
    for i in sorted(wrong, key=lambda i: -sure[i])[:MOST]:
        at = int(found.at[i])
        truth, told, last = (workload.labels[int(x)] for x in (workload.val.targets[i], answers[at, i], answers[-1, i]))
        cells.append(
            f'<div class="mo-example mo-{"lost" if right[-1, i] else "wrong"}">{examples.shown(workload, i)}<p>'
            f'truth <b>{escape(truth)}</b><br><span class="mo-tag">{escape(names[at])} says {escape(told)}</span><br>'
            f"<small>sure {sure[i]:.3f}; the last stage says {escape(last)}</small></p></div>"
        )
    texts = " mo-texts" if workload.modality == "text" else ""
    st.html(f'<div class="mo-changed{texts}">{"".join(cells)}</div>')
