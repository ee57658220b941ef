"""The tab Layers: one row a layer, before and after, with a bar for what the technique changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import streamlit as st
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.models import identity
from modelopt_core.structure.layer_table import Layer
from pages.draw import units
from pages.work.trial import Trial

FLOAT_BITS = 32
ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class Bars:
    """A column with bars. share: of (before, after) in [0, 1]; text: what is written beside the bar."""

    title: str
    share: Callable[[Layer, Layer], float]
    text: Callable[[Layer, Layer], str]


def bits(layer: Layer) -> float:
    """Bits that a weight takes: those that its grid's levels need, else a float's."""
    return math.ceil(math.log2(layer.levels)) if layer.levels else FLOAT_BITS


CHANNELS = Bars("channels kept", lambda a, b: b.outputs / a.outputs, lambda a, b: f"{b.outputs} of {a.outputs}")
WEIGHTS = Bars(
    "weights kept",
    lambda a, b: b.nonzero / max(1, a.parameters),
    lambda a, b: units.percent(b.nonzero / max(1, a.parameters)),
)
BITS = Bars("bits a weight", lambda a, b: bits(b) / FLOAT_BITS, lambda a, b: f"{bits(a):g} {ARROW} {bits(b):g}")


def draw(trial: Trial, bars: Bars) -> None:
    """The table as HTML: the bars come from data, the texts are escaped."""
    example = trial.bench.workload.example
    before = _layers(trial.bench.model, example)
    after = {layer.name: layer for layer in _layers(trial.after, example)}
    rows = "".join(_row(old, after[old.name], bars) for old in before if old.name in after)
    sums = [sum(layer.nonzero for layer in found) for found in (before, after.values())]
    macs = [sum(layer.macs for layer in found) for found in (before, after.values())]
    st.html(
        '<div class="mo-scroll"><table class="mo-table"><thead><tr><th>layer</th>'
        f'<th class="mo-wide">{escape(bars.title)}</th><td></td>'
        '<th class="mo-number">nonzero weights</th><th class="mo-number">MACs</th></tr></thead>'
        f"<tbody>{rows}<tr><td>all</td><td></td><td></td>"
        f'<td class="mo-number">{_pair(*sums)}</td><td class="mo-number">{_pair(*macs)}</td></tr></tbody></table></div>'
    )


def _layers(model: nn.Module, example: Tensor) -> list[Layer]:
    """The model's layers; counting them runs it once, so they are kept."""
    return STORE.get(("layers", identity.key(model)), lambda: mo.layers(model, example))


def _count(before: int, after: int) -> str:
    return _pair(before, after) if before or after else "<small>none</small>"


def _row(old: Layer, new: Layer, bars: Bars) -> str:
    width = f"{100 * min(1.0, max(0.0, bars.share(old, new))):.1f}"
    return (
        f"<tr><td>{escape(old.name)} <small>{escape(old.kind)}</small></td>"
        f'<td class="mo-wide"><span class="mo-bar"><i style="width:{width}%"></i></span></td>'
        f"<td>{escape(bars.text(old, new))}</td>"
        f'<td class="mo-number">{_pair(old.nonzero, new.nonzero)}</td>'
        f'<td class="mo-number">{_count(old.macs, new.macs)}</td></tr>'
    )


def _pair(before: int, after: int) -> str:
    if before == after:
        return units.whole(after)
    return f"<small>{units.whole(before)} {ARROW}</small> {units.whole(after)}"
