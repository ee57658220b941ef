"""The app at rest: some minutes after the last browser has gone, what was kept for it is given back."""

from __future__ import annotations

import threading
import time

LOOK_S = 15.0
ABSENT_S = 180.0  # Streamlit itself waits two minutes for a browser that lost its connection


class Rest:
    """When was somebody here last? Nothing is given back before the first visit: the start has prepared that one."""

    def __init__(self, absent_s: float = ABSENT_S) -> None:
        self.absent_s = absent_s
        self.seen_s: float | None = None

    def look(self, somebody: bool, now_s: float) -> bool:
        """Note who is here at a moment of a steady clock; is it time to give everything back? True once per absence."""
        if somebody:
            self.seen_s = now_s
            return False
        if self.seen_s is None or now_s - self.seen_s < self.absent_s:
            return False
        self.seen_s = None
        return True


def watch() -> None:
    """Look for ever, in a thread of its own. While somebody is here, only what lies idle in the heap is handed back."""
    threading.Thread(target=_watch, name="rest", daemon=True).start()


def somebody() -> bool:
    """Is a browser connected?"""
    from streamlit.runtime import Runtime, RuntimeState

    return Runtime.exists() and Runtime.instance().state is RuntimeState.ONE_OR_MORE_SESSIONS_CONNECTED


def release() -> None:
    """Forget what the pages keep for all sessions, and what the core keeps."""
    import streamlit as st

    from modelopt_core import memory

    st.cache_data.clear()
    st.cache_resource.clear()
    memory.release()


def _watch() -> None:
    from modelopt_core import memory, runtime

    rest = Rest()
    while True:
        time.sleep(LOOK_S)
        here = somebody()
        if rest.look(here, time.monotonic()):
            release()
        elif here:
            runtime.shrink()
            memory.trim()
