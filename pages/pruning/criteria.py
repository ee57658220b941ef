"""The tab Criteria: score against ratio of all criteria that apply, measured in the background on this model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from html import escape

import streamlit as st

import modelopt_core as mo
from modelopt_core.machine.digest import digest
from modelopt_core.models import identity
from modelopt_core.steps.prune import Cell, Duel, contest, duels, entrants, spreads
from modelopt_core.steps.prune.contest import RATIOS, SEEDS, drawn, length
from modelopt_core.studies.background import SWEEPER, Sweep
from pages.draw import charts, units
from pages.pruning import recovery
from pages.state.setting import Setting
from pages.work.follow import PATIENCE_S, follow
from pages.work.trial import start

SUBJECT = "hebbian"  # the article's own rule: the page says where it wins and loses
FAMILY = 5  # colours before a dash tells criteria apart


def draw(setting: Setting) -> None:
    """Curves on the left, what they say on the right, the numbers below."""
    names = entrants(setting.bench.model, setting.bench.workload, _step(setting))
    follow("criteria", partial(request, setting, names), partial(_draw, setting, names))


def request(setting: Setting, names: Sequence[str]) -> Sweep[Cell]:
    """The contest on the bench's model, all else as set; a training is not part of it."""
    here, step = setting.bench, _step(setting)
    key = digest("contest", identity.key(here.model), step.model_dump_json(), here.workload.data_hash,
                          here.runtime, here.device)  # fmt: skip

    def work() -> Iterable[Cell]:
        return contest(here.model, here.workload, step, names, runtime=here.runtime, device=here.device)

    return SWEEPER.request(key, length(names), work, len(here.workload.val), PATIENCE_S)  # type: ignore[arg-type]


def _step(setting: Setting) -> mo.Prune:
    """The setting without the criterion and the ratio, which the contest varies."""
    fields = mo.Prune.model_fields
    anchored = {name: fields[name].default for name in ("criterion", "ratio")}
    step = setting.step.changed(**anchored)
    assert isinstance(step, mo.Prune)
    return step


def _draw(setting: Setting, names: Sequence[str], sweep: Sweep[Cell]) -> None:
    cells = whole_rounds(list(sweep.points), len(names))
    if not cells:
        return
    if told := recovery.untuned(_step(setting), setting.bench):
        st.html(f'<p class="mo-foot"><b>{told}</b></p>')
    chart, words = st.columns([5, 3], gap="large")
    with chart:
        _chart(setting, names, cells)
    with words:
        st.html(verdict(setting, cells))
        st.html(f'<p class="mo-foot">{escape(band(setting))}</p>')
    with st.expander("The numbers"):
        st.html(_table(setting, cells))


def whole_rounds(cells: list[Cell], criteria: int) -> list[Cell]:
    """Without the last ratio while it is measured: the chart is drawn anew for a whole round, not for every cell."""
    if not cells or (cells[-1].seed == 0 and len(cells) % criteria == 0):
        return cells
    return [c for c in cells if (c.seed, c.ratio) != (cells[-1].seed, cells[-1].ratio)] or cells


def _chart(setting: Setting, names: Sequence[str], cells: Sequence[Cell]) -> None:
    fig = charts.figure("ratio p", setting.bench.workload.metric, percent="y", height=380)
    whole = start(setting.bench).score.value
    chosen = getattr(setting.step, "criterion", "")
    found = spreads(cells)
    for name in sorted(found, key=lambda name: (name == chosen, name == SUBJECT)):  # what matters lies on top
        points, at = found[name], names.index(name)
        x, y = [0.0, *(p.ratio for p in points)], [whole, *(p.mean for p in points)]
        several = any(p.seeds > 1 for p in points) and name in {chosen, SUBJECT, "random"}
        low, high = ([whole, *(p.low for p in points)], [whole, *(p.high for p in points)]) if several else (None, None)
        width = 3.5 if name == chosen else 2.5 if name == SUBJECT else 1.5
        charts.line(fig, name, x, y, _paint(name, chosen, at), low=low, high=high, dash=_dash(name, at), width=width)
    charts.mark(fig, getattr(setting.step, "ratio", 0.0), "")
    alt = f"Score against ratio for {', '.join(found)}; {chosen} is highlighted. The numbers are in the table below."
    charts.draw(fig, "criteria-chart", alt)


def _paint(name: str, chosen: str, at: int) -> str:
    """The chosen one is the score's blue, the article's rule ink, chance grey, the others a colour each."""
    if name == chosen:
        return charts.colour("score")
    return charts.colour({SUBJECT: "ink", "random": "muted"}[name]) if name in (SUBJECT, "random") else (
        charts.categorical(at)
    )  # fmt: skip


def _dash(name: str, at: int) -> str:
    return "dot" if name == "random" else "dash" if at >= FAMILY and name != SUBJECT else "solid"


def band(setting: Setting) -> str:
    """What the bands are, honestly."""
    return (
        f"Line: mean. Band ({SUBJECT}, random, the chosen one): lowest to highest of {SEEDS} seeds, which decide what "
        "random draws and which training examples a criterion looks at. The network is always "
        f"{setting.bench.model_name}; python -m benchmarks.prune trains others."
    )


def verdict(setting: Setting, cells: Sequence[Cell]) -> str:
    """Where the article's rule wins and loses, from these very cells: a small table."""
    here = setting.bench
    found = duels(cells, SUBJECT, here.workload.chance)
    rest = sum(not duel.verdict for duel in found)
    said = {
        "wins against": places(found, "better"),
        "loses to": places(found, "worse"),
        "no clear difference": [f"in {rest} of {len(found)} comparisons"],
    }
    rows = "".join(
        f"<tr><td>{what}</td><td>{'<br>'.join(map(escape, lines))}</td></tr>" for what, lines in said.items()
    )
    return (
        f'<div class="mo-ask"><b>Where {SUBJECT} wins and loses</b><div class="mo-wrap">'
        f'<table class="mo-table"><tbody>{rows}</tbody></table></div></div>'
        f'<p class="mo-foot">At equal ratio, on the same {units.whole(len(here.workload.val))} examples; paired tests, '
        "Holm's correction. Not compared where both only guess.</p>"
    )


def places(found: Sequence[Duel], word: str) -> list[str]:
    """A line for the rivals that share their ratios: l1, l2 at p = 0.3 to 0.5; or none."""
    rivals: dict[str, list[str]] = {}
    for name in sorted({duel.rival for duel in found}):
        if ratios := [duel.ratio for duel in found if (duel.rival, duel.verdict) == (name, word)]:
            rivals.setdefault(spans(ratios), []).append(name)
    return [f"{', '.join(names)} at p = {where}" for where, names in rivals.items()] or ["none"]


def spans(ratios: Sequence[float]) -> str:
    """0.1, 0.3 – 0.5: ratios that follow each other on the grid are joined."""
    grid, runs = sorted(RATIOS), list[list[int]]()
    for at in sorted(map(grid.index, ratios)):
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    ends = [(grid[run[0]], grid[run[-1]]) for run in runs]
    return ", ".join(f"{a:g}" if a == b else f"{a:g} {units.DASH} {b:g}" for a, b in ends)


def _table(setting: Setting, cells: Sequence[Cell]) -> str:
    """A row a criterion, a column a ratio: mean score, and the range over seeds where there is one."""
    found, chosen = spreads(cells), getattr(setting.step, "criterion", "")
    heads = "".join(f'<th class="mo-number">{ratio:g}</th>' for ratio in sorted(RATIOS))
    rows = ""
    for name, points in sorted(found.items(), key=lambda item: list(mo.CRITERIA).index(item[0])):
        by = {p.ratio: p for p in points}
        cellsof = ""
        for ratio in sorted(RATIOS):
            p = by.get(ratio)
            ends = f"<br><small>{100 * p.low:.1f} {units.DASH} {100 * p.high:.1f}</small>" if p and p.seeds > 1 else ""
            cellsof += f'<td class="mo-number">{f"{100 * p.mean:.1f}{ends}" if p else ""}</td>'
        title = f"<b>{escape(name)}</b>" if name == chosen else escape(name)
        rows += f"<tr><td>{title}{' <small>by seed</small>' if drawn(name) else ''}</td>{cellsof}</tr>"
    return (
        '<div class="mo-scroll"><table class="mo-table"><thead><tr><th>score in %, at ratio</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
