"""The tab Valley: loss and score along the straight line between two networks, as they are and aligned."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from html import escape
from typing import Any

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.digest import digest
from modelopt_core.models import identity
from modelopt_core.steps.fuse import ROUTES, Spot, alike, barrier, routes
from modelopt_core.studies.background import SWEEPER, Sweep
from pages.draw import charts, say, units
from pages.state import stack
from pages.state.setting import Setting
from pages.work.follow import PATIENCE_S, follow

POINTS = 21
DASHES = dict(zip(ROUTES, ("dot", "dash", "solid"), strict=True))

Walk = Sweep[tuple[str, Spot]]


def draw(setting: Setting) -> None:
    """Two charts and the barriers; for members that no line joins the reason."""
    models = stack.models(setting.members, setting.bench.workload)
    names = stack.names(setting.members)
    try:
        alike([models[0], models[-1]])
    except ModelOptError as error:
        say.caption(error)
        return
    follow("valley", partial(request, setting), partial(_drawn, names[0], names[-1]))


def request(setting: Setting) -> Walk:
    """Every route at every place, measured in the background."""
    here = setting.bench
    models = stack.models(setting.members, here.workload)
    first, last = models[0], models[-1]
    key = digest("valley", identity.key(first), identity.key(last), here.workload.data_hash)

    def work() -> Iterable[tuple[str, Spot]]:
        return routes(first, last, here.workload, points=POINTS)

    return SWEEPER.request(key, POINTS * len(ROUTES), work, patience_s=PATIENCE_S)  # type: ignore[arg-type]


def _drawn(first: str, last: str, sweep: Walk) -> None:
    found = {name: [spot for route, spot in list(sweep.points) if route == name] for name in ROUTES}
    found = {name: spots for name, spots in found.items() if spots}
    loss, score = st.columns(2, gap="large")
    with loss:
        fig = _figure(first, last, "log loss on val, nats", bool(found))
        for name, spots in found.items():
            charts.line(fig, name, [s.t for s in spots], [s.loss for s in spots], charts.colour("ink"),
                        dash=DASHES[name])  # fmt: skip
        charts.draw(fig, "valley-loss", f"Log loss between {first} and {last}: {_alt(found)}")
    with score:
        fig = _figure(first, last, "score on val", bool(found), percent="y")
        for name, spots in found.items():
            charts.line(fig, name, [s.t for s in spots], [s.score for s in spots], charts.colour("score"),
                        dash=DASHES[name])  # fmt: skip
        charts.draw(fig, "valley-score", f"Score between {first} and {last}")
    _table(found)


def _figure(first: str, last: str, title: str, begun: bool, percent: str = "") -> Any:
    fig = charts.figure(f"{first} at 0, {last} at 1", title, percent=percent)
    fig.update_xaxes(range=[0, 1])
    if not begun:
        fig.update_yaxes(range=[0, 1])
    return fig


def _table(found: dict[str, list[Spot]]) -> None:
    """The barrier and the lowest score of every route."""
    rows = ""
    for name, spots in found.items():
        worst = min(spots, key=lambda spot: spot.score)
        cells = (f"{barrier(spots):.3f}", units.percent(worst.score), f"{worst.t:.2f}")
        rows += f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="mo-number">{c}</td>' for c in cells) + "</tr>"
    st.html(
        '<div class="mo-scroll"><table class="mo-table"><thead><tr><th>way</th><th class="mo-number">barrier, nats</th>'
        '<th class="mo-number">lowest score</th><th class="mo-number">at</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="mo-foot">Barrier: how far the loss rises above the straight line between both ends. Hidden units '
        "have no order of their own. Aligned: those of the second network are permuted so that its weights match the "
        "first's; it computes the same as before, and what lies between becomes a network again.</p>"
    )


def _alt(found: dict[str, list[Spot]]) -> str:
    return ", ".join(f"barrier {barrier(spots):.2f} {name}" for name, spots in found.items())
