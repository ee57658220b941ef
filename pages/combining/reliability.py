"""The tab Calibration: is the whole as often right as it says, and what one temperature would change."""

from __future__ import annotations

import streamlit as st

from modelopt_core.calibration import Calibrated, calibrated
from pages.shared import charts, units
from pages.shared.trial import Trial


def draw(trial: Trial) -> None:
    """A reliability diagram before and after the temperature, and the same as numbers."""
    workload = trial.bench.workload
    before, after = trial.said
    rows: dict[str, Calibrated] = {
        trial.against: calibrated(before.outputs.log_probabilities, workload.val.targets),
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
        st.dataframe(
            [
                {
                    "": name,
                    "ECE": units.percent(c.ece_before),
                    "temperature": f"{c.temperature:.2f}",
                    "ECE then": units.percent(c.ece_after),
                }
                for name, c in rows.items()
            ],
            hide_index=True,
            key="reliability-table",
            alt="Calibration error before and after one temperature",
        )
        st.caption(
            "Bins of equal mass; ECE is the mean distance from the diagonal. The temperature has the least log loss on "
            "val, where it is also shown here: on new examples expect a little less."
        )
