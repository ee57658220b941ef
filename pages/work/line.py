"""Standing in line: what a page says while others are served before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores


@contextmanager
def asking() -> Iterator[None]:
    """A person asks for what is drawn inside. Where they wait for over a second, the foot of the page says for whom."""
    slot = st.empty()  # always there, so that what comes below keeps its place
    told: list[int] = []

    def tell(before: int) -> None:
        told.append(before)
        slot.html(f'<p class="mo-turn" role="status">{said(before)}</p>')

    with cores.asking(tell):
        try:
            yield
        except ModelOptError:
            _clear(slot, told)
            raise
        _clear(slot, told)


def said(before: int) -> str:
    """3 people are served before you."""
    if before == 0:
        return "Being measured now …"
    return f"{before} {'person is' if before == 1 else 'people are'} served before you …"


def _clear(slot: st.delta_generator.DeltaGenerator, told: list[int]) -> None:
    if told:
        slot.empty()
