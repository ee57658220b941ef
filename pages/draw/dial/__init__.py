"""The Dial: a slider and the response curve above it, in one component.

A drag moves the marker along the measured points in the browser, without a round trip; the release tells Python.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st
from streamlit.components.v2.get_bidi_component_manager import get_bidi_component_manager
from streamlit.components.v2.manifest_scanner import ComponentConfig, ComponentManifest

from modelopt_core.errors import ModelOptError
from pages.draw.dial.columns import Points, Row, point, to_columns

if TYPE_CHECKING:
    from modelopt_core.tasks.statistics import Estimate

__all__ = ["dial", "point"]

HERE = Path(__file__).parent
PLOTLY = "modelopt.plotly"  # the name under which Streamlit serves the folder of plotly.min.js
PLOTLY_URL = f"_stcore/bidi-components/{PLOTLY}/plotly.min.js?v={importlib.metadata.version('plotly')}"
ASSETS = "package_data"  # where the plotly package keeps it
LOG_DIGITS = 3  # significant digits of a value on a log scale; dial.js rounds the same way

_component = st.components.v2.component(
    "modelopt_dial",
    html=(HERE / "dial.html").read_text("utf-8"),
    css=(HERE / "dial.css").read_text("utf-8"),
    js="\n".join((HERE / name).read_text("utf-8") for name in ("curve.js", "dial.js")),
)


def dial(
    key: str,
    *,
    value: float,
    low: float,
    high: float,
    step: float,
    points: Points,
    baseline: Row,
    label: str,
    symbol: str,
    beyond: Sequence[float] = (),
    unit: str = "",
    scale: Literal["linear", "log"] = "linear",
    ticks: Sequence[tuple[float, str]] | None = None,
    height: int = 270,
    question: str | None = None,
    progress: tuple[int, int] | None = None,
    reference: tuple[Estimate, str] | None = None,
    alt: str | None = None,
    on_release: Callable[[], None] | None = None,
) -> float:
    """Draw the Dial and return the knob's value: the one just released, else `value`.

    The page owns the value: pass what you hold, keep what you get. Undo, reset and a link then need nothing special,
    since a new `value` moves the handle (never during a drag):

        st.session_state.ratio = dial("ratio", value=st.session_state.ratio, low=0, high=0.99, step=0.01,
                                      points=points, baseline=points[0], label="Share of weights removed", symbol="p")

    Call it in a fragment with `run_every` while points arrive: the node, the zoom and a drag under way are kept. A
    release reruns that fragment only; `st.rerun()` there where the rest of the page must follow.

    Args:
        key: identity of the knob on the page. Another key is another node, so keep it while points arrive.
        value: in [low, high]; what lies outside or between steps is moved to the nearest step.
        low, high, step: the slider's stops. On a log scale `step` is in decades: 0.1 gives ten stops a decade.
        points: rows (or one mapping of columns) with `x` (the knob's value), `score` (in [0, 1]), `size_bytes`,
            `latency_ms`; optional `score_low`, `score_high` (a band), `latency_ratio`, `latency_ratio_low`,
            `latency_ratio_high` (against the baseline timed beside it; else latency_ms is divided by the baseline's),
            `measured` (False draws a hollow dot) and `noisy` (True draws the latency off the line, with its spread as a
            bar). `point(x, measurement)` makes a row. May be empty at first.
        baseline: a mapping with the `size_bytes` and `latency_ms` that are 100 %.
        beyond: single stops above `high`, rising, not on a log scale; on the rail each stands one step further.
        label: the slider's accessible name. symbol, unit: the text under the handle, "p = 0.62", "b = 4 bits".
        ticks: (value, text) pairs of the x axis; left out, every stop of a short knob or round numbers.
        height: of the plot in pixels. From 420 the text grows too: for the view Present.
        question: view Learn. Asked in place of the curves until the first release; the guess stays marked.
        progress: (done, total) while the grid is measured; None or done == total hides it.
        reference: a score that the curve is to be compared with, and what to call it: a band across the plot.
        alt: sentence for a screen reader in place of the one made from the points.
        on_release: called before the rerun that a release causes.

    Raises ModelOptError for limits, scale or points that can't be drawn.
    """
    knob = _Knob(low, high, step, scale, beyond)
    columns = to_columns(points, baseline)
    state = st.session_state
    seen_key = f"{key}.releases"
    held = knob.snap(value)
    released, count = knob.read(state.get(key), seen=state.get(seen_key, 0))
    if released is not None:
        held, state[seen_key] = released, count
    _component(
        key=key,
        on_release_change=on_release or (lambda: None),
        data={
            "value": knob.place(held),
            "seen": state.get(seen_key, 0),
            "low": low,
            "high": knob.end,
            "step": step,
            "even": high,
            "beyond": list(beyond),
            "decimals": knob.decimals,
            "scale": scale,
            "label": label,
            "symbol": symbol,
            "unit": unit,
            "ticks": list(ticks) if ticks is not None else knob.ticks(),
            "height": height,
            "columns": {**columns, "x": [None if x is None else knob.place(x) for x in columns["x"]]},
            "baseline_bytes": baseline["size_bytes"],
            "progress": progress,
            "reference": band(*reference) if reference else None,
            "question": question,
            "alt": alt or summary(label, symbol, columns),
            "plotly": plotly_url(),
        },
    )
    return held


def band(score: Estimate, name: str) -> tuple[float, float, float, str]:
    """A score in [0, 1] as the browser draws it: low, value and high in per cent, and its name."""
    low, value, high = (round(100 * x, 2) for x in (score.low, score.value, score.high))
    return low, value, high, name


class _Knob:
    """The stops of a slider: rounding, and reading what a browser sent.

    A place is where a stop stands on the rail, in the knob's unit: itself, but those beyond `high` follow it evenly.
    """

    def __init__(self, low: float, high: float, step: float, scale: str, beyond: Sequence[float] = ()) -> None:
        if scale not in ("linear", "log"):
            raise ModelOptError(f"unknown scale {scale!r}; choose from linear, log")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ModelOptError(f"the knob goes from {low} to {high}; low must be below high")
        if scale == "log" and low <= 0:
            raise ModelOptError(f"a log scale can't begin at {low}; low must be above 0")
        if not (math.isfinite(step) and step > 0):
            raise ModelOptError(f"step is {step}; it must be above 0")
        if beyond and (scale == "log" or list(beyond) != sorted({high, *beyond})[1:]):
            raise ModelOptError(f"stops beyond {high} are {list(beyond)}; they must rise from there, on a linear scale")
        self.low, self.high, self.step, self.log, self.beyond = low, high, step, scale == "log", tuple(beyond)
        self.end = high + step * len(self.beyond)
        self.decimals = max((len(f"{number:.10f}".rstrip("0").split(".")[1]) for number in (low, step)), default=0)

    def snap(self, value: float) -> float:
        """The nearest stop; `low` for what is no number."""
        if not math.isfinite(value):
            return self.low
        if self.beyond and value > self.high:
            return min((self.high, *self.beyond), key=lambda stop: abs(stop - value))
        value = min(self.high, max(self.low, value))
        start, at = (math.log10(self.low), math.log10(value)) if self.log else (self.low, value)
        at = start + round((at - start) / self.step) * self.step
        value = float(f"{10**at:.{LOG_DIGITS}g}") if self.log else round(at, self.decimals)
        return min(self.high, max(self.low, value))

    def place(self, stop: float) -> float:
        """Where a stop stands."""
        return self.high + self.step * (1 + self.beyond.index(stop)) if stop in self.beyond else stop

    def read(self, state: Any, seen: int) -> tuple[float | None, int]:
        """The release in the component's state, if there is one that Python hasn't seen: (value, its count)."""
        release = state.get("release") if hasattr(state, "get") else None
        match release:
            case {"value": float() | int() as value, "n": int() as count} if count != seen:
                return self.snap(value), count
        return None, seen

    def ticks(self) -> list[tuple[float, str]] | None:
        """Every stop of a knob with few of them; Plotly chooses for the others."""
        stops = 1 if self.log else round((self.high - self.low) / self.step)
        if self.log or stops > 12:
            return None
        values = [*(round(self.low + i * self.step, self.decimals) for i in range(stops + 1)), *self.beyond]
        return [(self.place(value), f"{value:.{self.decimals}f}") for value in values]


def summary(label: str, symbol: str, columns: dict[str, list[Any]]) -> str:
    """The curve in a sentence, for those who can't see it: both ends and the number of points."""
    if not columns["x"]:
        return f"Response curve of {label}: nothing measured yet."

    def at(i: int) -> str:
        cells = [columns[name][i] for name in ("score", "size", "latency")]
        score, size, latency = ("unknown" if cell is None else f"{cell:.0f} %" for cell in cells)
        return f"at {symbol} = {columns['x'][i]:g} score {score}, size {size}, latency {latency} of the baseline"

    ends = at(0) if len(columns["x"]) == 1 else f"{at(0)}; {at(-1)}"
    return f"Response curve of {label}, {len(columns['x'])} points: {ends}."


def plotly_url() -> str:
    """Address of plotly.min.js, relative to the page: Streamlit serves it from where the plotly package keeps it.

    It is registered as a component's folder of assets, the one way that is the same for a checkout, an installed
    wheel and a plain `streamlit run app.py`. Once per server; 4.8 MB that are in no message.
    """
    manager = get_bidi_component_manager()
    if manager.get(PLOTLY) is None:
        spec = importlib.util.find_spec("plotly")  # plotly itself isn't imported: 0.2 s
        package = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path()
        if (package / ASSETS).is_dir():  # else the browser finds nothing there, and the Dial says so
            project, name = PLOTLY.split(".")
            manifest = ComponentManifest(name=project, version="1", components=[ComponentConfig(name, ASSETS)])
            manager.register_from_manifest(manifest, package)
    return PLOTLY_URL
