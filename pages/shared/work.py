"""Long work on the pages: what takes over a second is never done while a page is drawn, but by a job.

A job's model comes back under the key that `step.apply` would give it, so a setting that a job has finished is like any
other: cards, tabs, pin and history need not know, also after the app was restarted. Until then a panel stands where the
cards will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st
from torch import nn

from modelopt_core import jobs
from modelopt_core.errors import ModelOptError
from modelopt_core.jobs import Job
from modelopt_core.step import Step, Transform
from modelopt_core.sweep import Sweep
from modelopt_core.workload import Workload
from pages.shared import owner, work_view
from pages.shared.bench import Bench

POLL_S = 0.5


def kept(here: Bench, step: Step) -> bool:
    """Is the step's result at hand, or quick to make?"""
    return not step.lasts or at_hand([here.model], here.workload, step)


def at_hand(models: Sequence[nn.Module], workload: Workload, step: Step) -> bool:
    """Is the result of a step that lasts kept in memory or in the folder of one of this browser's jobs?"""
    return jobs.recall(step.key(models, workload), owner.token())


def apply(step: Transform, model: nn.Module, workload: Workload) -> nn.Module:
    """`step.apply`, but what lasts and is not kept is refused: no page trains while it is drawn."""
    if step.lasts and not at_hand([model], workload, step):
        raise ModelOptError(f"{step.name} is not measured with this setting; run it on its page first")
    return step.apply(model, workload)


def curve(here: Bench, step: Transform, field: str) -> Sweep:
    """What is known of the response curve of a step that lasts: settings that jobs have measured."""
    known = Sweep(0, lambda: iter(()))
    known.done = True
    return known


def found(here: Bench, step: Step) -> Job | None:
    """This browser's latest job for the setting."""
    mine = jobs.list(owner.token(), recipe=(step,), models=(here.model_name,), workload=here.workload.name)
    return _watched(mine[0]) if mine else None


def panel(here: Bench, step: Step) -> None:
    """What stands where the cards would be while the setting is not measured: Run, or how far the job is."""
    job = found(here, step)
    if job is None or job.state in ("done", "cancelled"):  # done, and its file is gone
        _offer(here, step)
    else:
        ended = job.state in jobs.ENDED
        st.fragment(_running, key="work", run_every=None if ended else POLL_S)(here, step, job)


def to_come() -> None:
    """What stands in a tab while the setting is not measured."""
    st.caption("Shown when this setting has been run.")


def _watched(job: Job) -> Job:
    """The same Job object through the whole session: it has read its events up to here."""
    watched: dict[str, Job] = st.session_state.setdefault("jobs", {})
    return watched.setdefault(job.id, job)


def _offer(here: Bench, step: Step) -> None:
    with st.container(border=True, key="work-panel"), _row():
        st.html(work_view.idle(step, _latest_like(here, step)))
        st.button("Run", icon=":material/play_arrow:", type="primary", key="work-run", on_click=_run, args=(here, step))


def _running(here: Bench, step: Step, job: Job) -> None:
    state = job.state
    if kept(here, step) or state in ("done", "cancelled"):
        st.rerun()
    with st.container(border=True, gap="xsmall", key="work-panel"):
        with _row():
            st.html(work_view.said(job))
            if state in jobs.ENDED:
                st.button("Resume", icon=":material/replay:", key="work-resume", on_click=_tell, args=(job, "resume"))
                st.button(
                    "Start again", icon=":material/restart_alt:", key="work-run", on_click=_run, args=(here, step)
                )
            else:
                stands = state == "paused"
                st.button("Play" if stands else "Pause", icon=f":material/{'play_arrow' if stands else 'pause'}:",
                          key="work-pause", on_click=_tell, args=(job, "resume" if stands else "pause"))  # fmt: skip
                st.button("One step", icon=":material/skip_next:", key="work-step", on_click=_tell, args=(job, "step"))
                st.button("Stop", icon=":material/stop:", key="work-stop", on_click=_tell, args=(job, "cancel"))
        work_view.progress(job)


def _row() -> Any:
    """A sentence on the left, buttons on the right."""
    return st.container(horizontal=True, vertical_alignment="center", key="work-row")


def _run(here: Bench, step: Step) -> None:
    """Callback: begin the job; an error is told where the panel stands."""
    try:
        jobs.start((step,), [here.model_name], here.workload.name, owner=owner.token(), runtime=here.runtime)
    except ModelOptError as error:
        st.toast(str(error)[:300], icon=":material/error:")


def _tell(job: Job, command: str) -> None:
    """Callback: pause, resume, step or cancel."""
    try:
        getattr(job, command)()
    except ModelOptError as error:
        st.toast(str(error)[:300], icon=":material/error:")


def _latest_like(here: Bench, step: Step) -> Job | None:
    """The latest finished job of the same kind, for an idea of how long it takes."""
    mine = jobs.list(owner.token(), models=(here.model_name,), workload=here.workload.name)
    same = (job for job in mine if [s["step"] for s in job.plan.recipe["steps"]] == [step.name])
    return next((job for job in map(_watched, same) if job.state == "done"), None)
