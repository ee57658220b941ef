"""The tab Diversity: do the members fail on the same examples, and what does each one add?"""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.steps.ensemble import diversity, shares_added
from pages.combining import said, weights
from pages.draw import charts, units
from pages.state import stack
from pages.work.trial import Trial

MATRICES = {
    "disagreement": "Share of examples where the two answer differently. High helps, if both are good.",
    "Q statistic": "Yule's Q of being right: 1 fails together, 0 independently, below 0 where the other is right.",
    "error correlation": "Pearson's correlation of the errors. Low helps.",
}


def draw(trial: Trial) -> None:
    """Left a matrix of pairs, right the value of each member."""
    names = stack.names(trial.members)
    found = said.kept(trial, "diversity", lambda: diversity(*said.answers(trial)))
    pairs, worth = st.columns([1, 1], gap="large")
    with pairs:
        what = st.segmented_control(
            "Pairs", list(MATRICES), default="disagreement", key="Ensemble.pairs", required=True
        )
        matrix = dict(zip(MATRICES, (found.disagreement, found.q, found.correlation), strict=True))[what]
        fig = charts.figure("", "", legend=False)
        charts.heat(fig, names, names, matrix.tolist(), charts.categorical(0), form=".3f")
        charts.draw(fig, "diversity-chart", f"{what} of every pair of members")
        st.caption(MATRICES[what])
    with worth:
        _worth(trial, names)


def _worth(trial: Trial, names: list[str]) -> None:
    """What leaving one out loses in score and log loss, and saves in bytes and time."""
    shares = weights.held(len(names))
    score, loss = shares_added(
        said.log_probabilities(trial), shares, trial.step.rule, trial.bench.workload, said.truth(trial)
    )
    here, rows = trial.bench, []
    for name, model, weight, gain, drop in zip(
        names, stack.models(trial.members, here.workload), shares, score, loss, strict=True
    ):
        m = mo.measure(model, here.workload, runtime=here.runtime, device=here.device)
        cells = (f"{weight:.2f}", units.points(gain), f"{drop:+.4f}", units.size(m.size_bytes),
                 units.milliseconds(m.latency_ms.value))  # fmt: skip
        rows.append(
            f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="mo-number">{escape(c)}</td>' for c in cells) + "</tr>"
        )
    heads = "".join(
        f'<th class="mo-number">{head}</th>' for head in ("weight", "score added", "log loss saved", "costs", "takes")
    )
    st.html(
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr><th>member</th>{heads}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="mo-foot">Added: with the member minus without it, the '
        "others' weights scaled up; on val. Costs and takes: the member alone.</p>"
    )
