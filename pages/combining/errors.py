"""The tabs Errors and Lost of a pipeline: which stage went wrong about which example, and what came of it."""

from __future__ import annotations

from html import escape

import streamlit as st

from modelopt_core.steps.pipeline import Flow
from pages.combining import composed, pictures
from pages.draw import charts, say, units
from pages.draw.say import plain
from pages.work.trial import Trial

MOST = 36
EVERY = "every stage"


def draw(trial: Trial) -> None:
    """The flow of val through the stages, and the same as a table."""
    found = composed.happened(trial)
    diagram, table = st.columns([3, 2], gap="large")
    with diagram:
        _sankey(found)
    with table:
        st.dataframe(
            [
                {"stage": name, "lost here": units.whole(lost), "recovered": units.whole(back)}
                for name, (lost, back) in zip(found.names, found.counts(), strict=True)
            ],
            hide_index=True, key="lost-table", alt="Examples that each stage lost, or that recovered",
        )  # fmt: skip
        st.caption(
            "Lost: the answer is wrong and this is the first stage that was. Recovered: the stage was wrong and the "
            "answer is right nevertheless. A repair or a box is to blame where its truth would have been read right."
        )
        if found.how == "simulated":
            say.caption(f"With the switches of the tab Stages; {composed.ORACLE}.")


def _sankey(found: Flow) -> None:
    """Stage to stage what is still right; from each what it lost and what recovered."""
    n, s = len(found.answers), len(found.names)
    left, links, told = n, [], []
    for i, (name, (lost, back)) in enumerate(zip(found.names, found.counts(), strict=True)):
        told.append(f"{name}<br>{units.whole(left)}")
        left -= lost + back
        links += [
            (i, s + 2, lost, "lost"),
            (i, s + 1, back, "ink"),
            (i, i + 1, left, "muted" if i + 1 < s else "score"),
        ]
    back = sum(recovered for _, recovered in found.counts())
    told += [f"right · {units.whole(left)}", f"right anyway · {units.whole(back)}",
             f"wrong · {units.whole(n - left - back)}"]  # fmt: skip
    fig = charts.sankey(told, [link for link in links if link[2]])
    worst = max(range(s), key=lambda i: found.counts()[i][0])
    charts.draw(fig, "errors-chart", f"Of {n} examples of val, most are lost at {found.names[worst]}")


def lost(trial: Trial) -> None:
    """Pictures or texts with the stage that lost them; those that recovered on request."""
    found = composed.happened(trial)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        where = st.segmented_control(
            "Lost at", [EVERY, *found.names], default=EVERY, key="Pipeline.lost", required=True, format_func=plain
        )
        back = st.toggle("Show those that recovered", key="Pipeline.recovered")
    first = found.recovered if back else found.lost
    chosen = [i for i, at in enumerate(first.tolist()) if at >= 0 and where in (EVERY, found.names[at])]
    more = f", the first {MOST} shown" if len(chosen) > MOST else ""
    told = f"{more}. {pictures.legend(trial, found)}"
    st.html(f'<p class="mo-foot"><b>{units.whole(len(chosen))} examples</b>{told}</p>')
    html = pictures.shown(trial, found, chosen[:MOST])
    cells = "".join(_example(trial, found, i, found.names[int(first[i])], html[i]) for i in chosen[:MOST])
    texts = " mo-texts" if trial.bench.workload.modality == "text" else ""
    st.html(f'<div class="mo-changed{texts}">{cells}</div>')


def _example(trial: Trial, found: Flow, i: int, stage: str, html: str) -> str:
    workload, wrong = trial.bench.workload, float(found.scores[i]) < 1
    truth, answer = (workload.labels[int(x)] for x in (workload.val.targets[i], found.answers[i]))
    return (
        f'<div class="mo-example mo-{"lost" if wrong else "won"}">{html}<p>'
        f'truth <b>{escape(truth)}</b><br><span class="mo-tag">says {escape(answer)}</span><br>'
        f"<small>{'lost' if wrong else 'recovered'} at {escape(stage)}</small></p></div>"
    )
