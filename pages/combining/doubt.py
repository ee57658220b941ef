"""The tab Doubt: the examples that the members are least of one mind about."""

from __future__ import annotations

from html import escape

import streamlit as st

from modelopt_core.steps.ensemble import doubtful
from pages.combining import said, weights
from pages.draw import units
from pages.tabs import examples
from pages.work.trial import Trial

MOST = 24


def draw(trial: Trial) -> None:
    """Pictures or texts, the most disputed first, with every member's answer."""
    workload = trial.bench.workload
    found = doubtful(said.log_probabilities(trial), weights.held(len(trial.members)), MOST)
    answers, _ = said.answers(trial)
    whole = trial.said[1]
    cells = []
    for i, total, between in found:
        votes = " ".join(workload.labels[int(answer)] for answer in answers[:, i])
        truth, told = workload.labels[int(workload.val.targets[i])], workload.labels[int(whole.answers[i])]
        right = "won" if truth == told else "lost"
        cells.append(
            f'<div class="mo-example mo-{right}">{examples.shown(workload, i)}<p>truth <b>{escape(truth)}</b><br>'
            f'<span class="mo-tag">says {escape(told)}</span>, sure {units.percent(float(whole.confidence[i]))}<br>'
            f"<small>members {escape(votes)}<br>doubt {total:.2f} nats, {between:.2f} of it dispute</small></p></div>"
        )
    texts = " mo-texts" if workload.modality == "text" else ""
    st.html(
        f'<p class="mo-foot">The {len(found)} examples of val that the members dispute most. Doubt: entropy of the mean'
        f" answer; dispute: the part of it that goes when the members agree.</p>"
        f'<div class="mo-changed{texts}">{"".join(cells)}</div>'
    )
