"""A part of a tab that grows while it is measured in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from modelopt_core.studies.background import Sweep
from pages.draw import say
from pages.draw.say import plain
from pages.state import address

EVERY_S = 1.0
PATIENCE_S = 5.0  # a sweep that no open tab has asked for so long rests


def follow(key: str, sweep: Callable[[], Sweep[Any]], draw: Callable[[Sweep[Any]], None]) -> None:
    """Draw now, and again every second until the sweep is complete. sweep: asks for it, which also keeps it going."""

    def part(was_done: bool) -> None:
        found = sweep()
        if not found.done:
            share = len(found.points) / max(1, found.total)
            st.progress(min(1.0, share), text=plain(f"measuring {len(found.points)} of {found.total}"))
        draw(found)
        if found.error:
            say.caption(found.error)
        if found.done and not was_done:
            address.rerun()  # ends the polling

    done = sweep().done
    st.fragment(part, key=key, run_every=None if done else EVERY_S)(done)
