"""The tab Calibration: is the whole as often right as it says, and what one temperature would change."""

from __future__ import annotations

from html import escape

import streamlit as st

from modelopt_core.tasks.calibration import Calibrated, calibrated
from pages.draw import charts, units
from pages.work.trial import Trial


def draw(trial: Trial) -> None:
    """A reliability diagram before and after the temperature, and the same as numbers."""
    workload = trial.bench.workload
    before, after = trial.said
    rows: dict[str, Calibrated] = {
        "baseline": calibrated(before.outputs.log_probabilities, workload.val.targets),
        trial.step.name: calibrated(after.outputs.log_probabilities, workload.val.targets),
    }
    found = rows[trial.step.name]
    chart, numbers = st.columns([3, 2], gap="large")
    with chart:
        fig = charts.figure("how sure", "how often right", percent="xy")
        ends = [min(b.confidence for b in found.before), 1.0]
        charts.line(fig, "perfect", ends, ends, charts.colour("muted"), dash="dot")
        for name, bins, paint in (
            ("as it is", found.before, charts.colour("score")),
            (f"at temperature {found.temperature:.2f}", found.after, charts.colour("ink")),
        ):
            charts.line(fig, name, [b.confidence for b in bins], [b.score for b in bins], paint, markers=True)
        charts.draw(fig, "reliability-chart", f"Reliability of {trial.step.name} on val, {len(found.before)} bins")
    with numbers:
        body = "".join(
            f"<tr><td>{escape(name)}</td>"
            + "".join(f'<td class="mo-number">{cell}</td>' for cell in (
                _percent(c.ece_before), f"{c.temperature:.2f}", _percent(c.ece_after)))
            + "</tr>"
            for name, c in rows.items()
        )  # fmt: skip
        heads = "".join(f'<th class="mo-number">{head}</th>' for head in ("ECE", "temperature", "ECE then"))
        st.html(
            f'<div class="mo-scroll"><table class="mo-table"><thead><tr><td></td>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
            '<p class="mo-foot">Bins of equal mass; ECE is the mean distance from the diagonal. The temperature has '
            "the least log loss on val, and is shown on val: on new examples expect a little less.</p>"
        )


def _percent(share: float) -> str:
    """0.0027 → 0.27 %"""
    return f"{100 * share:.2f}{units.SPACE}%"
