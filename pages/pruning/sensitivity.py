"""The tab Sensitivity: what the score loses when one layer alone is pruned, with all that is coupled to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

import modelopt_core as mo
from modelopt_core.machine.digest import digest
from modelopt_core.models import identity
from modelopt_core.steps.prune import Sensitivity, Unit
from modelopt_core.studies.background import SWEEPER, Sweep
from pages.draw import charts, units
from pages.pruning import ratios, recovery
from pages.state.setting import Setting
from pages.work.follow import PATIENCE_S, follow

if TYPE_CHECKING:
    import pandas as pd

RATIOS = (0.5, 0.1, 0.9, 0.3, 0.7)  # coarse to fine
DEEPEST = 0.55  # opacity of the largest loss: the number on it stays readable


def draw(setting: Setting) -> None:
    """A table whose cells are coloured by the loss; a click gives that layer that ratio."""
    assert isinstance(setting.step, mo.Prune)
    found = [unit for unit in ratios.units_of(setting.bench, setting.step.granularity) if not unit.stays]
    st.html(
        '<p class="mo-foot">Change of the score in points when <b>one layer alone</b> loses this share, with all that '
        "is coupled to it. Each cell is a real prune, measured. Grey: the interval holds zero. "
        "<b>Click a cell</b> to give that layer that ratio; Undo takes it back.</p>"
    )
    if told := recovery.untuned(setting.step, setting.bench):
        st.html(f'<p class="mo-foot"><b>{told}</b></p>')
    follow("sensitivity", partial(request, setting, len(found)), partial(_table, found))


def request(setting: Setting, layers: int) -> Sweep[Sensitivity]:
    """All layers at all ratios, the criterion and all else as set; layers' own ratios are not part of it."""
    here, step = setting.bench, setting.step.changed(ratio=0.0, ratios=(), frozen=(), scope="layer")
    assert isinstance(step, mo.Prune)
    key = digest("sensitivity", identity.key(here.model), step.model_dump_json(), here.workload.data_hash,
                          here.runtime, here.device)  # fmt: skip

    def work() -> Iterable[Sensitivity]:
        for ratio in RATIOS:
            yield from mo.sensitivity(
                here.model, here.workload, step.changed(ratio=ratio), runtime=here.runtime, device=here.device
            )

    return SWEEPER.request(key, layers * len(RATIOS), work, patience_s=PATIENCE_S)  # type: ignore[arg-type]


def _table(found: Sequence[Unit], sweep: Sweep[Sensitivity]) -> None:
    import pandas as pd  # a quarter of a second, and the cards come first

    cells = {(s.name, s.ratio): s.delta for s in list(sweep.points)}
    columns = sorted(RATIOS)
    points = [[100 * cells[u.name, r].value if (u.name, r) in cells else None for r in columns] for u in found]
    clear = [[not cells[u.name, r].low <= 0 <= cells[u.name, r].high if (u.name, r) in cells else False
              for r in columns] for u in found]  # fmt: skip
    names = [f"{ratio:g}" for ratio in columns]
    numbers: Any = pd.DataFrame(points, columns=names, dtype=float)
    numbers.insert(0, "layer", [ratios.label(unit) for unit in found])
    styled = numbers.style.apply(lambda frame: _styles(frame, clear), axis=None)
    st.dataframe(
        styled.format(lambda v: f"{v:+.1f}".replace("-", units.MINUS), subset=names, na_rep=""),
        hide_index=True,
        key="sensitivity-table",
        placeholder="",
        on_select=partial(_chosen, found),
        selection_mode="single-cell",
        alt="Change of the score in points, a row a layer, a column a ratio",
    )


def _styles(frame: Any, clear: Sequence[Sequence[bool]]) -> pd.DataFrame:
    """The deeper the loss, the bluer: score is blue; what may be chance is grey."""
    import pandas as pd

    numbers = frame.drop(columns="layer")
    worst = max(1.0, -float(numbers.min().min())) if numbers.notna().any().any() else 1.0
    styles = pd.DataFrame("", index=frame.index, columns=frame.columns)
    for row in range(len(frame)):
        for column, name in enumerate(numbers.columns):
            loss = numbers.iat[row, column]
            depth = 0.0 if pd.isna(loss) else DEEPEST * min(1.0, max(0.0, -float(loss) / worst))
            ink = "" if clear[row][column] else f"; color: {charts.colour('muted')}"
            styles.loc[row, name] = f"background-color: {charts.tint('score', depth)}{ink}"
    return styles


def _chosen(found: Sequence[Unit]) -> None:
    """Callback: the cell that was clicked, as that layer's ratio."""
    selected: Any = st.session_state.get("sensitivity-table") or {}
    cells = selected.get("selection", {}).get("cells", [])
    if cells and cells[0][1] in {f"{ratio:g}" for ratio in RATIOS} and 0 <= cells[0][0] < len(found):
        ratios.give(found[cells[0][0]], float(cells[0][1]))
