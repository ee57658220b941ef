"""The tab Numbers: every released setting as a row to sort, pin and compare, and the curve's points as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st

import modelopt_core as mo
from modelopt_core.measuring.measurement import Measurement
from modelopt_core.steps.recipe import Point
from pages.draw import units
from pages.draw.say import plain
from pages.state import history, pin
from pages.state.bench import Bench
from pages.state.history import Run
from pages.state.setting import Setting
from pages.tabs import cards
from pages.tabs.sheet import Cell, to_csv

PERCENT, MS, RATIO = "%.1f %%", "%.3f ms", "%.2f ×"
COLUMNS = {
    "score": ("score", PERCENT), "score low": ("low", PERCENT), "score high": ("high", PERCENT),
    "size bytes": ("size, B", "localized"), "latency ms": ("latency", MS), "speedup": ("faster", RATIO),
    "macs": ("MACs", "localized"), "nonzero": ("nonzero", "localized"),
}  # fmt: skip


def draw(setting: Setting, knob: str, points: Sequence[Point]) -> None:
    """Two tables: the runs of this session and the points of the curve."""
    _runs(setting.bench)
    st.space("small")
    _curve(setting, knob, points)


def numbers_of(found: Measurement) -> dict[str, Cell]:
    """A measurement as cells; percentages of the score, the rest in the unit that the name says."""
    return {
        "score": 100 * found.score.value,
        "score low": 100 * found.score.low,
        "score high": 100 * found.score.high,
        "how": found.score.how,
        "size bytes": found.size_bytes,
        "latency ms": found.latency_ms.value,
        "timed": "noisy" if found.noisy else found.latency_ms.how,
        "speedup": found.speedup.value,
        "macs": found.macs,
        "nonzero": found.nonzero,
        "runtime": found.runtime,
    }


def run_rows(runs: Sequence[Run]) -> list[dict[str, Cell]]:
    """The released settings as cells."""
    return [
        {"workload": run.workload, "model": run.model, "setting": run.setting, **numbers_of(run.measurement)}
        for run in runs
    ]


def _runs(here: Bench) -> None:
    runs = history.runs()
    rows = run_rows(runs)
    st.html(
        '<p class="mo-foot"><b>Released settings</b> of this session, each against its model as it came. '
        "Choose one to pin it, two to compare.</p>"
    )
    event: Any = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        key="runs-table",
        column_config=_config(),
        alt="Released settings and their measurements",
    )
    chosen = [runs[i] for i in event.selection.rows if i < len(runs)]
    one = chosen[0] if len(chosen) == 1 and chosen[0].workload == here.workload.name else None
    with st.container(horizontal=True):
        st.button(
            "Pin as baseline",
            icon=":material/keep:",
            disabled=one is None,
            on_click=_pin,
            args=(here, one),
            key="pin-run",
            help="Every change on the cards is then against this setting.",
        )
        _download("Runs as CSV", rows, "modelopt-runs.csv", "runs-csv")
    if len(chosen) == 2:
        st.html(_side_by_side(here, chosen[0], chosen[1]))


def _pin(here: Bench, run: Run | None) -> None:
    if run is not None:
        pin.pin(here, run.made)
        st.rerun()


def _curve(setting: Setting, knob: str, points: Sequence[Point]) -> None:
    found = sorted(points, key=lambda p: p.value)
    rows: list[dict[str, Cell]] = [{knob: p.value, **numbers_of(p.measurement)} for p in found]
    st.html(
        f'<p class="mo-foot"><b>The curve</b>: {len(rows)} measured settings of '
        f"{escape(knob)}, against the model as it came.</p>"
    )
    st.dataframe(
        rows,
        hide_index=True,
        key="curve-table",
        column_config=_config(),
        height=248,
        alt=f"Score, size and latency at every measured {knob} of {setting.step.name}",
    )
    _download("Curve as CSV", rows, "modelopt-curve.csv", "curve-csv")


def _config() -> dict[str, Any]:
    return {name: st.column_config.NumberColumn(title, format=form) for name, (title, form) in COLUMNS.items()}


def _download(label: str, rows: list[dict[str, Cell]], name: str, key: str) -> None:
    st.download_button(plain(label), lambda: to_csv(rows), name, "text/csv", key=key, on_click="ignore",
                       icon=":material/download:", disabled=not rows)  # fmt: skip


def _side_by_side(here: Bench, first: Run, second: Run) -> str:
    """Two runs as columns, and between them the paired test where both answered the same examples."""
    a, b = first.measurement, second.measurement
    lines = [
        ("score", *(f"{units.percent(m.score.value)} ({units.percent_interval(m.score)})" for m in (a, b))),
        ("size", units.size(a.size_bytes), units.size(b.size_bytes)),
        ("latency", units.milliseconds(a.latency_ms.value), units.milliseconds(b.latency_ms.value)),
        ("MACs", units.whole(a.macs), units.whole(b.macs)),
    ]
    changes = ["", units.change(a.size_bytes / b.size_bytes, "smaller", "larger", "same size"), "", ""]
    changes[3] = cards.fewer(a.macs, b.macs)
    if first.workload == second.workload == here.workload.name:
        models = [run.made.model(here.workload) for run in (first, second)]
        found = mo.compare(models[0], models[1], here.workload, runtime=here.runtime, device=here.device)
        changes[0] = f"{units.points(found.delta.value)}, {cards.significance(found)}; {cards.flips(found)}"
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in (*line, change)) + "</tr>"
        for line, change in zip(lines, changes, strict=True)
    )
    heads = "".join(f"<th>{escape(f'{run.model} · {run.setting}')}</th>" for run in (first, second))
    return (
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr><td></td>{heads}<th>change</th></tr>'
        "</thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
