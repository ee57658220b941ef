"""The tab One large: is one large model better for the same bytes, or for the same time?"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.studies.single_model import Rival, rivals
from pages.combining import said
from pages.draw import units
from pages.draw.say import plain
from pages.state import bench, loaded, stack
from pages.work.trial import Trial

HEADS = ("", "score on val", "95 % interval", "log loss", "file", "latency, one example")
KEY = "Ensemble.large"


def draw(trial: Trial) -> None:
    """A choice of the large model, and a table: row by row as it is measured, then kept for these members."""
    here = trial.bench
    names = sorted(here.workload.models, key=lambda name: _parameters(here, name), reverse=True)
    large = st.selectbox("The large model", names, key=KEY, width=260)
    slot = st.empty()

    def watched() -> list[Rival]:
        found: list[Rival] = []
        for rival in rivals(
            stack.models(trial.members, here.workload),
            trial.step,
            loaded.load_model(here.workload.name, large),
            here.workload,
            runtime=here.runtime,
            device=here.device,
        ):
            found.append(rival)
            _table(slot, found, large, "Measuring the next …")
        return found

    try:
        found = said.kept(trial, f"rivals {trial.step.model_dump_json()} {large}", watched)
    except ModelOptError as error:
        slot.caption(plain(error))
        return
    _table(slot, found, large, f"Latency in turns with {large}. Rounded to nearest, one scale a channel. The ensemble "
           "has your weights; fewer members count equally.")  # fmt: skip


def _table(slot: Any, found: Sequence[Rival], large: str, foot: str) -> None:
    heads = "".join(f'<th class="mo-number">{escape(head)}</th>' if head else "<th></th>" for head in HEADS)
    body = "".join(_row(rival.name.replace("the large model", large), rival) for rival in found)
    slot.html(
        f'<div class="mo-scroll"><table class="mo-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        f'</div><p class="mo-foot">{escape(foot)}</p>'
    )


def _parameters(here: bench.Bench, name: str) -> int:
    """How large a shipped model is; one that can't be loaded comes last."""
    try:
        return sum(p.numel() for p in loaded.load_model(here.workload.name, name).parameters())
    except ModelOptError:
        return 0


def _row(name: str, rival: Rival) -> str:
    found = rival.measurement
    cells = (
        units.percent(found.score.value),
        units.percent_interval(found.score),
        f"{rival.loss:.4f}",
        units.size(found.size_bytes),
        units.milliseconds(found.latency_ms.value),
    )
    return f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="mo-number">{escape(c)}</td>' for c in cells) + "</tr>"
