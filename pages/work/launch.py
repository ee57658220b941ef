"""Long work on the pages: what takes over a second is never done while a page is drawn, but by a job.

A job's model comes back under the key that `step.apply` would give it, so a setting that a job has finished is like any
other: cards, tabs, pin and history need not know, also after the app was restarted. Until then a panel stands where the
cards will be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import SMALL, Store
from modelopt_core.steps.base import Knob, Step, Transform
from modelopt_core.steps.recipe import Point, from_json
from modelopt_core.studies import jobs, shipped_curves
from modelopt_core.studies.background import Sweep
from modelopt_core.studies.jobs import Job
from modelopt_core.studies.jobs.plan import recipe
from modelopt_core.studies.jobs.response import anchored, response
from pages.draw import say
from pages.draw.say import plain
from pages.state import address, at_hand, owner
from pages.work import work_view

if TYPE_CHECKING:
    from pages.state.setting import Setting

POLL_S = 0.5
WATCHED = Store(max_bytes=16 * 2**20)  # whoever is not among them reads its events again
READ = 8  # bytes in memory of a byte of events
POINTS, SEEDS = (6, 12, 34), (1, 3, 5)


def kept(asked: Setting) -> bool:
    """Is the setting's result at hand, or quick to make?"""
    workload, step = asked.bench.workload, asked.step
    return not step.lasts(workload) or at_hand.has(asked.models, workload, step)


def curve(asked: Setting, field: str) -> Known:
    """What this browser's jobs know of the response curve of a step that lasts, and what came with the project."""
    here, step, mine = asked.bench, asked.step, _on_curve(asked, field)
    points = {point.value: point for point in response(mine, step, field)}
    if here.runtime == "onnx" and (shipped := shipped_curves.curve(step, field, here.model, here.workload)):
        points |= {point.value: point for point in shipped.points}  # of more seeds
    return Known(list(points.values()), next((job for job in mine if job.plan.grid), None), field)


def _on_curve(asked: Setting, field: str) -> list[Job]:
    """This browser's jobs that measured the step with other values of the knob, where and how the bench measures."""
    here, step = asked.bench, asked.step
    same = here.device == "cpu"  # where jobs measure
    return [j for j in _mine(asked) if same and j.plan.runtime == here.runtime and anchored(j.plan, step, field)]


class Known(Sweep[Point]):
    """The points that jobs have measured so far. job: the latest sweep of the curve, which may still run."""

    def __init__(self, points: list[Point], job: Job | None, field: str) -> None:
        super().__init__(len(points), lambda: iter(()))
        self.points, self.job, self.done = points, job, job is None or job.ended
        self.error = (job.error or "") if job else ""
        if job and job.plan.grid and not self.done:
            self.total, self.measured = len(job.plan.grid.places), len(job.measured(field))

    @property
    def progress(self) -> tuple[int, int] | None:
        """Counts every seed."""
        return None if self.done else (self.measured, self.total)


def found(asked: Setting) -> Job | None:
    """This browser's job for the setting: one that runs, be it a sweep over it, else the latest of it alone."""
    mine = [job for job in _mine(asked) if _about(job, asked.step.lasting)]
    alone = [job for job in mine if job.plan.grid is None]
    return next((job for job in (*alone, *mine) if not job.ended), alone[0] if alone else None)


def panel(asked: Setting, *, asking: bool = False) -> None:
    """What stands where the cards would be while the setting is not measured: Run, or how far the job is.

    asking: Learn waits for a guess, so that no curve is shown that would give the score away.
    """
    asked.step.check(asked.models, asked.bench.workload)
    job = found(asked)
    if job is None or job.state in ("done", "cancelled"):  # done, and its file is gone
        with _panel(asked), _row("work-row"):
            st.html(work_view.idle(asked.step, _latest_like(asked)))
            _run_button("Run", "play_arrow", asked, primary=True)
    else:
        ended = job.ended
        st.fragment(_running, key="work", run_every=None if ended else POLL_S)(asked, job, ended, asking)


def curve_row(asked: Setting, field: str) -> None:
    """Under the Dial of a step that lasts with every value of it: have the whole curve measured, or stop that."""
    step = asked.step
    if asked.bench.device != "cpu" or not isinstance(step, Transform):
        return
    job = curve(asked, field).job
    with _row("curve-row"):
        if job and not job.ended:
            st.html(work_view.curve_line(job))
            buttons(job, "curve")
            return
        st.html(work_view.curve_line(None))
        with st.popover("Measure the curve", icon=":material/timeline:"):
            knob = type(step).knob(field)
            st.segmented_control("Points", POINTS, default=POINTS[0], required=True, key="curve-points",
                                 help="Values of the dial, the ends first, then the gaps.")  # fmt: skip
            st.segmented_control("Seeds", SEEDS, default=SEEDS[0], required=True, key="curve-seeds",
                                 help="Each value is run so often; the band goes from worst to best.")  # fmt: skip
            say.caption(f"It can be stopped and resumed.{work_view.took(step, _latest_like(asked))}")
            st.button("Start", icon=":material/play_arrow:", key="curve-run", on_click=_sweep,
                      args=(asked, field, knob))  # fmt: skip


def to_come() -> None:
    """What stands in a tab while the setting is not measured."""
    st.caption("Shown when this setting has been run.")


def _running(asked: Setting, job: Job, had_ended: bool, asking: bool) -> None:
    if kept(asked) or (job.ended and not had_ended):
        address.rerun()
    with _panel(asked):
        with _row("work-row"):
            st.html(work_view.said(job))
            if job.ended:
                _run_button("Start again", "restart_alt", asked)
            buttons(job, "work")
        work_view.progress(job, curves=not asking)


def buttons(job: Job, key: str) -> None:
    """Pause or play, one step and stop; of a job that has ended, resume."""
    if job.ended:
        named = {"resume": ("Resume", "replay")}
    else:
        stands = job.state == "paused"
        named = {
            "resume" if stands else "pause": ("Play", "play_arrow") if stands else ("Pause", "pause"),
            "step": ("One step", "skip_next"),
            "cancel": ("Stop", "stop"),
        }
    for command, (label, icon) in named.items():
        st.button(plain(label), icon=f":material/{icon}:", key=f"{key}-{command}", on_click=tell, args=(job, command))


def _run_button(label: str, icon: str, asked: Setting, primary: bool = False) -> None:
    st.button(plain(label), icon=f":material/{icon}:", type="primary" if primary else "secondary", key="work-run",
              on_click=run, args=(asked,))  # fmt: skip


def _panel(asked: Setting) -> Any:
    """As high as the cards: nothing jumps when they come."""
    large = asked.bench.view == "present"
    return st.container(border=True, gap="xsmall", key="work-panel-big" if large else "work-panel")


def _row(key: str) -> Any:
    """A sentence on the left, buttons on the right."""
    return st.container(horizontal=True, vertical_alignment="center", key=key)


def run(asked: Setting) -> None:
    """Callback: begin the job of one setting; what is shown beside it comes along, unless it is at hand."""
    step = asked.step
    if step.beside and not kept(asked.other(step.beside)):
        pair(asked, 1)
        return
    with _told():
        jobs.start((step.lasting,), handed(asked), asked.bench.workload.name, **_how(asked))
        st.rerun()  # the sidebar counts jobs


def pair(asked: Setting, seeds: int) -> None:
    """Callback: begin the job of a setting and of what is shown beside it, in turns, from so many seeds."""
    step, name = asked.step, asked.bench.workload.name
    with _told():
        jobs.pair(step, step.beside, handed(asked)[0], name, seeds=range(seeds), **_how(asked))
        st.rerun()


def _sweep(asked: Setting, field: str, knob: Knob) -> None:
    """Callback: begin the job of the whole curve."""
    count, seeds = st.session_state["curve-points"], st.session_state["curve-seeds"]
    known = {place[:2] for job in _on_curve(asked, field) for place in job.measured(field)}
    with _told():
        jobs.sweep(asked.step, field, knob.values(count), handed(asked)[0], asked.bench.workload.name,
                   seeds=range(seeds), known=sorted(known), **_how(asked))  # fmt: skip
        st.rerun()  # the Dial is to follow it


def handed(asked: Setting) -> list[str | nn.Module]:
    """What a job of the setting begins with: models of the zoo by name, others themselves."""
    return [one.model_name if not one.steps else model for one, model in zip(asked.begin, asked.models, strict=True)]


def _how(asked: Setting) -> Any:
    """Whose job it is, how it measures, and what it begins with in the words of the pages."""
    about = json.dumps([one.item for one in asked.begin])
    return {"owner": owner.token(), "runtime": asked.bench.runtime, "about": about}


def tell(job: Job, command: str) -> None:
    """Callback: pause, resume, step, cancel or remove."""
    with _told():
        getattr(job, command)()


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong is one line, and the page stays."""
    try:
        yield
    except ModelOptError as error:
        say.toast(str(error)[:300])


def mine() -> list[Job]:
    """This browser's jobs, the latest first, but for damaged ones."""
    return [job for job in map(_known, jobs.list(owner.token())) if _sound(job)]


def _known(job: Job) -> Job:
    """The Job object that has read the events of this folder before, and reads on."""
    found: Job = WATCHED.get(job.path, lambda: job, lambda one: SMALL + READ * one.written_bytes)
    return found


def _sound(job: Job) -> bool:
    """Can its events be read, and is its recipe one?"""
    steps = job.plan.recipe.get("steps")
    whole = isinstance(steps, list) and steps and all(isinstance(step, dict) and "step" in step for step in steps)
    try:
        return bool(whole and job.state)
    except ModelOptError:
        return False


def steps(job: Job) -> Sequence[Step]:
    """The job's recipe."""
    return from_json(json.dumps(job.plan.recipe))


def _mine(asked: Setting) -> list[Job]:
    """Those that begin with the same models."""
    models, workload = jobs.named(handed(asked)), asked.bench.workload.name
    return [j for j in mine() if j.plan.models == models and j.plan.workload == workload]


def _about(job: Job, step: Step) -> bool:
    """Does the job make this setting?"""
    if job.plan.grid is None:
        return recipe((step,)) in (job.plan.recipe, job.plan.pair and job.plan.pair.against)
    field = job.plan.grid.field
    return anchored(job.plan, step, field) and getattr(step, field) in job.plan.grid.values  # type: ignore[arg-type]


def _latest_like(asked: Setting) -> Job | None:
    """The latest finished job of the same kind, for an idea of how long it takes."""
    same = (job for job in _mine(asked) if [s["step"] for s in job.plan.recipe["steps"]] == [asked.step.name])
    return next((job for job in same if job.state == "done"), None)
