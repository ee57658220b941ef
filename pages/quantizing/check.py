"""The tab Check: does the integer runtime say what was simulated?"""

from __future__ import annotations

import streamlit as st

import modelopt_core as mo
from pages.shared import units
from pages.shared.trial import Trial


def draw(trial: Trial) -> None:
    """Answers of PyTorch on the points of the grids against those of ONNX Runtime, and both latencies."""
    found, measured = mo.agreement(trial.after, trial.bench.workload), trial.measurement
    kind = (
        "its own integer arithmetic" if found.integer else "floats, wholly or in part: nothing is proved for integers"
    )
    share, interval = units.percent(found.share.value), units.percent_interval(found.share)
    now, quartiles = units.milliseconds(measured.latency_ms.value), units.milliseconds_interval(measured.latency_ms)
    rows = (
        ("what ran", f"{found.runtime}: {kind}"),
        ("same answer", f"{share} of {units.whole(found.share.n)} examples of val, 95 % {interval}"),
        ("largest difference of two logits", f"{units.percent(found.largest)} of the largest logit"),
        ("score, simulated in PyTorch", units.percent(found.before)),
        ("score, in ONNX Runtime", units.percent(found.after)),
        ("latency before", units.milliseconds(measured.baseline_ms.value)),
        ("latency now", f"{now}, {quartiles}"),
    )
    body = "".join(f"<tr><td>{name}</td><td>{text}</td></tr>" for name, text in rows)
    st.html(f'<div class="mo-scroll mo-wrap"><table class="mo-table"><tbody>{body}</tbody></table></div>')
