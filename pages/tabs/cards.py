"""The three cards on top of every technique page: score in blue, size in orange, latency in green.

Each holds a number with its unit, how it was had, the change against the pinned baseline, and what stands behind it.
Every line is always there, so that nothing moves when a value changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape

import streamlit as st

from modelopt_core.measuring.measurement import Comparison
from modelopt_core.tasks.statistics import verdict
from pages.draw import units
from pages.state.bench import DEVICES
from pages.work.trial import Trial

HIDDEN = "Shown after your guess."


@dataclass(frozen=True)
class Card:
    """Plain text; it is escaped when it becomes HTML. kind: score, size or latency, which is also its colour."""

    kind: str
    title: str
    how: str
    value: str
    change: str
    detail: str
    note: str


def cards(trial: Trial) -> tuple[Card, Card, Card]:
    """What the three cards say about a trial."""
    m, before, one = trial.measurement, trial.reference, trial.bench.workload.modality
    score, latency = m.score, m.latency_ms
    return (
        Card(
            "score",
            f"Score · {m.metric}",
            score.how,
            units.percent(score.value),
            f"{units.points(trial.comparison.delta.value)}, {significance(trial.comparison)}",
            f"{units.percent_interval(score)} · n = {units.whole(score.n)}",
            f"{flips(trial.comparison)}{probability(trial.comparison)}",
        ),
        Card(
            "size",
            f"Size · {m.size_label}",
            "measured",
            units.size(m.size_bytes),
            units.change(before.size_bytes / m.size_bytes, "smaller", "larger", "same size"),
            f"bound by entropy {units.size(m.entropy_bytes)}",
            f"{units.whole(m.nonzero)} of {units.whole(max(trial.start.parameters, m.parameters))} weights not zero",
        ),
        Card(
            "latency",
            f"Latency · one {one}",
            "noisy" if m.noisy else "measured",
            units.milliseconds(latency.value),
            units.speed(m.speedup),
            f"{units.milliseconds_interval(latency)} quartiles",
            f"MACs {fewer(before.macs, m.macs)}",
        ),
    )


def draw(trial: Trial, note: str, *, big: bool, asking: bool = False) -> None:
    """The row of cards and a line on what was measured.

    note: an honest word on speed; big: for the view Present; asking: the score stays hidden until Learn's guess.
    """
    warned = f"<b>{escape(note)}</b>" if note else ""
    score, size, latency = cards(trial)
    shown = (replace(score, value="?", change="", detail=HIDDEN, note=""), size, latency) if asking else cards(trial)
    st.html(
        f'<div class="{"mo-big" if big else ""}"><div class="mo-cards">{"".join(map(_html, shown))}</div>'
        f'<p class="mo-line"><span>{escape(basis(trial))}</span>{warned}</p></div>'
    )


def basis(trial: Trial) -> str:
    """What was measured, against what, and what ran it: val, chance 10.0 % · against cnn, float32 · …"""
    work, m = trial.bench.workload, trial.measurement
    return (
        f"{work.title} val, chance {units.percent(work.chance)}, 95 % intervals · against {trial.against} · "
        f"{m.runtime}, {m.threads} thread, {DEVICES[m.device]}"
    )


def significance(comparison: Comparison) -> str:
    """better, worse or not significant: McNemar's test where answers are right or wrong, else the interval."""
    delta = comparison.delta
    if comparison.flips is not None:
        return verdict(comparison.flips.p, delta.value)
    return verdict(1.0 if delta.low <= 0 <= delta.high else 0.0, delta.value)


def flips(comparison: Comparison) -> str:
    """3 lost, 0 won"""
    if comparison.flips is None:
        return f"{units.whole(len(comparison.changed))} changed"
    return f"{units.whole(comparison.flips.lost)} lost, {units.whole(comparison.flips.won)} won"


def probability(comparison: Comparison) -> str:
    """· McNemar p = 0.25"""
    if comparison.flips is None:
        return ""
    p = comparison.flips.p
    return f" · McNemar p {'< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'}"


def fewer(before: int, after: int) -> str:
    """3.1 × fewer"""
    return units.change(before / max(1, after), "fewer", "more", "unchanged")


def _html(card: Card) -> str:
    kind, title, how, value, change, detail, note = (escape(text) for text in card.__dict__.values())
    return (
        f'<section class="mo-card mo-{kind}" aria-label="{title}">'
        f'<div class="mo-top"><span>{title}</span><span class="mo-chip mo-{how}">{how}</span></div>'
        f'<div class="mo-mid"><strong>{value}</strong><b>{change}</b></div>'
        f'<div class="mo-detail">{detail}</div><div class="mo-note">{note}</div></section>'
    )
