"""The sidebar's list of this browser's jobs: what runs, what is done; open, stop, delete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.steps.base import Combine
from modelopt_core.studies.jobs import Job, watch
from pages.draw import units
from pages.draw.say import plain
from pages.state import address, bench, controls, history, pool, stack
from pages.work import launch, work_view

EVERY_S = 2.0
MOST_OF_A_NAME = 12
ABOUT = "Long work of this browser."
MOST = 12  # shown; older ones still give their results


def draw(pages: Mapping[str, Any]) -> None:
    """A button with the list behind it, once there are jobs. pages: title → page, which are named like their steps."""
    running = _running()
    st.fragment(_list, key="jobs", run_every=EVERY_S if running else None)(pages, running)


def _running() -> int:
    return sum(not job.ended for job in launch.mine())


def _list(pages: Mapping[str, Any], had: int) -> None:
    found, running = launch.mine(), _running()
    if had and not running:
        address.rerun()  # ends the polling
    label = f"Jobs: {running} running" if running else "Jobs"
    icon = f":material/{'progress_activity' if running else 'checklist'}:"
    with st.popover(
        plain(label), icon=icon, width="stretch", disabled=not found, key="jobs-list", on_change="rerun", help=ABOUT
    ) as list_:
        if list_.open:
            for job in found[:MOST]:
                one(job, pages)


def one(job: Job, pages: Mapping[str, Any]) -> None:
    """A row: what it does, open its setting, and stop or delete."""
    with st.container(horizontal=True, vertical_alignment="center", key=f"job-{job.id}"):
        st.html(_described(job))
        page = pages.get(str(job.plan.recipe["steps"][-1].get("step")))
        if st.button("Open", key=f"open-{job.id}", disabled=page is None, on_click=_set, args=(job,)) and page:
            st.switch_page(page)
        if job.ended:
            st.button("Delete", key=f"delete-{job.id}", on_click=launch.tell, args=(job, "remove"))
        else:
            st.button("Stop", key=f"stop-{job.id}", on_click=launch.tell, args=(job, "cancel"))


def _described(job: Job) -> str:
    """What it does, on what, and how far it is."""
    try:
        steps = " · ".join(step.label for step in launch.steps(job))
    except ModelOptError:  # a step that this version does not know
        steps = "an older recipe"
    grid = job.plan.grid
    over = f", {len(grid.values)} values of {grid.field}" if grid else ""
    if pair := job.plan.pair:
        over = f" and the same alone, {len(pair.seeds)} seed{'s' * (len(pair.seeds) > 1)}"
    far = "" if job.ended else f", {units.percent(watch.share(job))}"
    on = f"{bench.title(job.plan.workload)}, {_begun_with(job)}"
    return (
        f'<div class="mo-job"><b>{escape(steps + over)}</b>'
        f"<small>{escape(on)} · {work_view.state_of(job)}{far} · {units.duration(watch.seconds(job))}</small></div>"
    )


def _begun_with(job: Job) -> str:
    """cnn, or cnn + mlp · Prune 0.3"""
    try:
        return " + ".join(stack.outline(item).name for item in json.loads(job.plan.about))
    except (ValueError, TypeError, ModelOptError):  # not from a page
        return ", ".join(name[:MOST_OF_A_NAME] for name in job.plan.models)


def _set(job: Job) -> None:
    """Callback: put the job's setting on the bench."""
    try:
        step = launch.steps(job)[-1]
    except ModelOptError:
        return
    fields = {key: getattr(step, name) for name, key in controls.keys(type(step)).items()}
    fields |= {"workload": job.plan.workload}
    if isinstance(step, Combine):
        fields |= {pool.key(step.name): job.plan.about}
    elif job.plan.models[0].endswith(".mopt"):
        fields |= {f"{step.name}.teacher": json.dumps(*json.loads(job.plan.about))}
    else:
        fields |= {"model": job.plan.models[0], f"{step.name}.teacher": ""}
    history.apply(fields)
