"""The tab Training: both students while they learn, with the teacher and without; then what the teacher was worth."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import takewhile
from statistics import fmean

import streamlit as st

import modelopt_core as mo
from modelopt_core.studies.jobs import Job, watch
from modelopt_core.studies.jobs.pairs import ALONE
from pages.draw import charts, units
from pages.state import address, at_hand
from pages.state.setting import Setting
from pages.work import launch, work_view

EVERY_S = 1.0
NAMES = ("with the teacher", "without a teacher")
SEEDS = (1, 3, 5)


def draw(setting: Setting) -> None:
    """Drawn again every second while the two learn."""
    assert isinstance(setting.step, mo.Distill)
    busy = _busy(setting) is not None
    st.fragment(_part, key="distill-training", run_every=EVERY_S if busy else None)(setting, busy)


def _busy(setting: Setting) -> Job | None:
    """The job that trains this very student."""
    job = launch.found(setting)
    return job if job is not None and not job.ended else None


def _part(setting: Setting, was_busy: bool) -> None:
    job, here, step = _busy(setting), setting.bench, setting.step
    if job is not None:
        _running(job, beside=launch.kept(setting))
    elif step.beside:
        _offer(setting)
    _curves(setting)
    if step.beside and (seeds := _seeds(setting)):
        _gap(mo.gap(step, here.model, here.workload, seeds=seeds, runtime=here.runtime))
    if was_busy and job is None:
        address.rerun()  # ends the polling


def _running(job: Job, beside: bool) -> None:
    """How far it is; and the buttons, where they do not stand above already. beside: cards stand there."""
    with st.container(horizontal=True, vertical_alignment="center", key="distill-running"):
        st.html(f'<p class="mo-foot">{escape(work_view.state_of(job))}: {escape(work_view.doing(job))}. '
                f"{escape(work_view.pace(job))}</p>")  # fmt: skip
        if beside:
            launch.buttons(job, "distill")


def _offer(setting: Setting) -> None:
    """Train both students, from as many seeds as are wanted."""
    with st.container(horizontal=True, vertical_alignment="center", key="distill-offer"):
        st.html('<p class="mo-foot">Both students have the same first weights, order and budget.</p>')
        seeds = st.segmented_control("Seeds", SEEDS, default=SEEDS[0], required=True, key="distill-seeds",
                                     label_visibility="collapsed", format_func=_counted,
                                     help="First weights and order; several show how much is luck.")  # fmt: skip
        st.button("Train both", icon=":material/play_arrow:", key="distill-both", on_click=launch.pair,
                  args=(setting, seeds))  # fmt: skip


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _seeds(setting: Setting) -> int:
    """From how many seeds 0, 1, … both students are at hand."""
    step, workload = setting.step, setting.bench.workload
    both = (step, step.alone)
    return sum(1 for _ in takewhile(
        lambda seed: all(at_hand.has(setting.models, workload, each, seed) for each in both), range(max(SEEDS))
    ))  # fmt: skip


def _curves(setting: Setting) -> None:
    """Score on val by epochs of both students, the mean over the seeds between worst and best, and the teacher's."""
    here, step = setting.bench, setting.step
    fig, drawn = charts.figure("epochs", "score on val", percent="y"), []
    for each, name, paint, dash in zip((step, step.alone), NAMES, ("score", "ink"), ("solid", "dash"), strict=True):
        if found := _scores(setting.other(each)):
            band = watch.band(found)
            low, high = (band.low, band.high) if len(found) > 1 else (None, None)
            charts.line(fig, name, band.x, band.mean, charts.colour(paint), dash=dash, low=low, high=high)
            drawn.append(f"{name} {units.percent(band.mean[-1])}, {_counted(len(found))}")
    if not drawn:
        st.caption("Curves are shown of trainings that were run here.")
        return
    fig.update_xaxes(range=[1, step.epochs])
    teacher = mo.measure(here.model, here.workload, runtime=here.runtime, device=here.device).score.value
    fig.add_hline(y=teacher, line={"color": charts.colour("muted"), "dash": "dot"}, annotation_text="teacher")
    charts.draw(
        fig, "distill-curves", f"Score on val while training: {', '.join(drawn)}; teacher {units.percent(teacher)}"
    )


def _scores(setting: Setting) -> list[watch.Curve]:
    """A curve a seed, of the latest job that trained this student, with its teacher or as the one beside.

    Of a seed that has come less far than the first, nothing: the band would end there.
    """
    job = launch.found(setting)
    if job is None:
        return []
    second = job.plan.pair is not None and launch.steps(job)[0] != setting.step
    found = list(watch.by_epoch(job, f"score{ALONE}" if second else "score").values())
    return [curve for curve in found if curve.x[-1:] == found[0].x[-1:]]


def _gap(gap: mo.Gap) -> None:
    """Teacher, both students and the share of the gap, with its interval over the examples of val and the seeds."""
    count = len(gap.alone)
    cells = [("teacher", [gap.teacher]), (NAMES[1], gap.alone), (NAMES[0], gap.distilled)]
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{units.percent(fmean(values))}</td><td>{_range(values)}</td></tr>"
        for name, values in cells
    )
    over = "over the examples of val; one seed" if count == 1 else f"over the examples of val and {count} seeds"
    value, low, high = (units.points(x) for x in (gap.gain.value, gap.gain.low, gap.gain.high))
    said = f"The teacher is worth {value} ({low} to {high}, {over}). "
    if gap.share:
        value, low, high = (
            f"{100 * x:.0f} %".replace("-", units.MINUS) for x in (gap.share.value, gap.share.low, gap.share.high)
        )
        said += f"{value} of the gap is closed ({low} to {high})."
    else:
        said += "It is not clearly better than the student alone itself: there is no gap to take a share of."
    spread = "worst to best" if count > 1 else ""
    head = f"<thead><tr><th>{_counted(count)}</th><th>score</th><th>{spread}</th></tr></thead>"
    st.html(
        f'<div class="mo-scroll" style="max-width: 34rem"><table class="mo-table">{head}<tbody>{body}</tbody></table>'
        f'</div><p class="mo-foot">{escape(said)}</p>'
    )


def _range(values: Sequence[float]) -> str:
    return f"{units.percent(min(values))} – {units.percent(max(values))}" if len(values) > 1 else ""
