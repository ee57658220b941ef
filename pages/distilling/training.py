"""The tab Training: both students while they learn, with the teacher and without; then what the teacher was worth."""

from __future__ import annotations

from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.jobs import Job, watch
from pages.shared import charts, units, work
from pages.shared.bench import Bench
from pages.shared.trial import Setting

EVERY_S = 1.0
NAMES = ("with the teacher", "without a teacher")


def draw(setting: Setting) -> None:
    """Drawn again every second while one of the two learns."""
    here, step = setting.bench, setting.step
    assert isinstance(step, mo.Distill)
    busy = any(job is not None and not job.ended for job in found(here, step))
    st.fragment(_part, key="distill-training", run_every=EVERY_S if busy else None)(here, step, busy)


def found(here: Bench, step: mo.Distill) -> list[Job | None]:
    """The jobs of the student with its teacher and of the one without, where there are any."""
    return [work.found(here, each) for each in (step, step.alone)]


def _part(here: Bench, step: mo.Distill, was_busy: bool) -> None:
    jobs = found(here, step)
    _offer(here, step, jobs)
    _curves(here, jobs)
    if all(work.kept(here, each) for each in (step, step.alone)):
        _gap(mo.gap(step, here.model, here.workload, seeds=1, runtime=here.runtime))
    if was_busy and not any(job is not None and not job.ended for job in jobs):
        st.rerun()  # ends the polling


def _offer(here: Bench, step: mo.Distill, jobs: list[Job | None]) -> None:
    """A button for the student without a teacher, where nobody has trained it."""
    if not work.kept(here, step.alone) and (jobs[1] is None or jobs[1].ended):
        with st.container(horizontal=True, vertical_alignment="center", key="distill-alone"):
            st.html('<p class="mo-foot">What would this student be without a teacher? Nobody has trained it yet.</p>')
            st.button("Run without a teacher", icon=":material/person:", key="run-alone", on_click=work.run,
                      args=(here, step.alone))  # fmt: skip


def _curves(here: Bench, jobs: list[Job | None]) -> None:
    """Score on val, epoch by epoch, of both students, and the teacher's."""
    fig, drawn = charts.figure("batches", "score on val", percent="y"), []
    for job, name, paint, dash in zip(jobs, NAMES, ("score", "ink"), ("solid", "dash"), strict=True):
        score = next((curve for curve in (watch.curves(job) if job else ()) if curve.name == "score"), None)
        if score is not None:
            charts.line(fig, name, score.x, score.y, charts.colour(paint), dash=dash)
            drawn.append(f"{name} {units.percent(score.y[-1])}")
    if not drawn:
        st.caption("Curves are shown of trainings that were run here: the button Run, above, begins one.")
        return
    teacher = mo.measure(here.model, here.workload, runtime=here.runtime, device=here.device).score.value
    fig.add_hline(y=teacher, line={"color": charts.colour("muted"), "dash": "dot"}, annotation_text="teacher")
    charts.draw(
        fig, "distill-curves", f"Score on val while training: {', '.join(drawn)}; teacher {units.percent(teacher)}"
    )


def _gap(gap: mo.Gap) -> None:
    """Teacher, both students and the share of the gap, with its interval over the examples of val."""
    cells = [("teacher", gap.teacher), (NAMES[1], gap.alone[0]), (NAMES[0], gap.distilled[0])]
    body = "".join(f"<tr><td>{escape(name)}</td><td>{units.percent(value)}</td></tr>" for name, value in cells)
    said = "The teacher is not clearly better than the student alone: there is no gap to close."
    if gap.share:
        low, value, high = (
            f"{100 * x:.0f} %".replace("-", units.MINUS) for x in (gap.share.low, gap.share.value, gap.share.high)
        )
        said = f"{value} of the gap is closed ({low} to {high}, over the examples of val; one seed)."
    head = "<thead><tr><th>seed 0</th><th>score</th></tr></thead>"
    st.html(
        f'<div class="mo-scroll" style="max-width: 30rem"><table class="mo-table">{head}<tbody>{body}</tbody></table>'
        f'</div><p class="mo-foot">{escape(said)}</p>'
    )
