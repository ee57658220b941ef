"""How a job looks: a sentence on its state, a bar that moves, and the curves of what it reports, in a kept element."""

from __future__ import annotations

from html import escape
from itertools import groupby

import streamlit as st

from modelopt_core.jobs import Job, watch
from modelopt_core.step import Step
from pages.shared import units

STATES = {"queued": "Waiting", "running": "Training", "paused": "Paused", "done": "Done", "cancelled": "Stopped",
          "failed": "Ended early"}  # fmt: skip
SHARES = ("score", "agreement")  # values in [0, 1], written in per cent
MOST_PLOTS = 3

_component = st.components.v2.component(
    "modelopt_work",
    html="""<div class="work"><div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></div>
<div class="line"><span class="left"></span><span class="right"></span></div><div class="plots"></div></div>
""",
    css="""
.work { font-size: 0.92rem; color: var(--mo-muted); font-variant-numeric: tabular-nums; }
.bar { height: 0.5rem; border-radius: 0.25rem; background: var(--mo-soft); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--mo-ink); transform-origin: left; transform: scaleX(0);
  transition: transform 0.5s linear; }
.line { display: flex; justify-content: space-between; gap: 1rem; margin: 0.3rem 0 0.4rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1.2rem; min-height: 4.4rem; }
figure { margin: 0; min-width: 0; }
figcaption { display: flex; justify-content: space-between; }
figcaption b { color: var(--st-text-color); font-weight: 650; }
svg { display: block; width: 100%; height: 3rem; overflow: visible; border-bottom: 1px solid var(--mo-line); }
path { fill: none; stroke-width: 2px; stroke: var(--mo-ink); vector-effect: non-scaling-stroke; }
.score path, .score b { stroke: var(--mo-score); }
.score figcaption b { color: var(--mo-score); }
path.second { stroke-dasharray: 4 4; stroke: var(--mo-ink); }
@media (prefers-reduced-motion: reduce) { .bar i { transition: none; } }
""",
    js="""
const SVG = "http://www.w3.org/2000/svg";

function draw(figure, plot) {
  figure.className = plot.role;
  figure.querySelector("figcaption span").textContent = plot.title;
  figure.querySelector("figcaption b").textContent = plot.value;
  const svg = figure.querySelector("svg");
  svg.setAttribute("aria-label", plot.alt);
  const ys = plot.lines.flatMap((line) => line.y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const right = Math.max(plot.right, 1);
  while (svg.children.length < plot.lines.length) svg.append(document.createElementNS(SVG, "path"));
  while (svg.children.length > plot.lines.length) svg.lastChild.remove();
  plot.lines.forEach((line, i) => {
    const at = (x, y) => `${((100 * x) / right).toFixed(2)},${(96 - (92 * (y - low)) / (high - low || 1)).toFixed(2)}`;
    svg.children[i].setAttribute("d", `M${line.x.map((x, j) => at(x, line.y[j])).join("L")}`);
    svg.children[i].classList.toggle("second", i > 0);
  });
}

export default function ({ data, parentElement }) {
  const find = (selector) => parentElement.querySelector(selector);
  find(".bar i").style.transform = `scaleX(${data.share})`;
  find(".bar").setAttribute("aria-valuenow", Math.round(100 * data.share));
  find(".bar").setAttribute("aria-label", data.left);
  for (const name of ["left", "right"]) if (find(`.${name}`).textContent !== data[name]) find(`.${name}`).textContent = data[name];
  const plots = find(".plots");
  while (plots.children.length > data.plots.length) plots.lastChild.remove();
  while (plots.children.length < data.plots.length) {
    const figure = document.createElement("figure");
    figure.innerHTML = '<figcaption><span></span><b></b></figcaption><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img"></svg>';
    plots.append(figure);
  }
  data.plots.forEach((plot, i) => draw(plots.children[i], plot));
}
""",
)


def idle(step: Step, latest: Job | None) -> str:
    """Not measured yet: what it needs, and how long the last one took. latest: the last finished job of its kind."""
    took = f" The last {escape(step.name)} here took {units.duration(watch.seconds(latest))}." if latest else ""
    return (
        '<div class="mo-work"><b>Not measured</b><p>This setting trains, which takes longer than a slider. '
        f"Run it once, and it is kept.{took}</p></div>"
    )


def said(job: Job) -> str:
    """The state and, where it ended early, why, and what is kept."""
    state, error = job.state, job.error
    more = ""
    if state == "failed":
        kept = " The last good model is kept." if job.saved else ""
        more = f"<p>{escape((error or '')[:300])}.{kept}</p>"
    return f'<div class="mo-work"><b>{STATES[state]}</b>{more}</div>'


def progress(job: Job, key: str = "work-progress") -> None:
    """The bar, what is being done and how fast, and up to three small plots."""
    now, left = job.progress, watch.left_s(job)
    percent = units.percent(watch.share(job))
    doing = "starting" if now is None else f"{now.phase}, {percent}"
    epoch, speed = watch.latest(job, "epoch"), watch.latest(job, "examples_per_s")
    if now is not None and epoch is not None:
        doing = f"{now.phase}, epoch {epoch:.0f}, {percent}"
    fast = f"{units.whole(speed)} examples per second" if speed else ""
    _component(
        key=key,
        data={
            "share": round(watch.share(job), 4),
            "left": doing,
            "right": " · ".join(filter(None, (fast, f"about {units.duration(left)} left" if left else ""))),
            "plots": plots(job),
        },
    )


def plots(job: Job) -> list[dict[str, object]]:
    """One plot for each kind of value: `score` and `score alone` share one."""
    now = job.progress
    found = []
    ordered = sorted(watch.curves(job), key=lambda curve: curve.name)
    for kind, members in groupby(ordered, key=lambda curve: curve.name.partition(" ")[0]):
        curves = list(members)
        value = curves[0].y[-1]
        text = units.percent(value) if kind in SHARES else f"{value:.3g}"
        found.append({
            "title": " and ".join(curve.name for curve in curves),
            "role": kind,
            "value": text,
            "right": now.total if now else 1,
            "alt": f"{kind} over the training, now {text}",
            "lines": [{"x": curve.x, "y": [float(f"{y:.5g}") for y in curve.y]} for curve in curves],
        })  # fmt: skip
    return found[:MOST_PLOTS]
