"""The tab Error: where it goes, layer by layer."""

from __future__ import annotations

from html import escape

import streamlit as st

from modelopt_core.steps.quantize.inspect import LayerError, layer_errors
from pages.draw import units
from pages.work.trial import Trial

TITLES = ("layer", "share of the error", "bits", "signal to noise", "over half a step off", "dead channels",
          "largest weight", "in the file")  # fmt: skip
ABOUT = (
    "The error is the sum of squared differences of the weights. A weight is over half a step off where it lay outside "
    "the range, or where a rounding that looks at data moved it on purpose. A dead channel has only zeros left. The "
    "largest weight, in standard deviations σ, is what absmax stretches the grid for."
)


def draw(trial: Trial) -> None:
    """A table, one row a layer."""
    head = "".join(f"<th{' class=mo-number' if at > 1 else ''}>{title}</th>" for at, title in enumerate(TITLES))
    body = "".join(map(_row, layer_errors(trial.bench.model, trial.after)))
    st.html(
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    st.html(f'<p class="mo-foot">{ABOUT}</p>')


def _row(row: LayerError) -> str:
    bar = f'<span class="mo-bar"><i style="width:{100 * row.share:.1f}%"></i></span>'
    size = f"<small>{units.size(row.was_bytes)} →</small> {units.size(row.size_bytes)}"
    cells = (
        row.bits,
        units.decibels(row.snr_db),
        units.percent(row.clipped),
        row.dead or "",
        f"{row.outlier:.1f} σ",
        size,
    )
    numbers = "".join(f"<td class=mo-number>{cell}</td>" for cell in cells)
    return f"<tr><td>{escape(row.layer)}</td><td class=mo-share>{bar}</td>{numbers}</tr>"
