"""Whose jobs are whose: a secret that the browser keeps as a cookie, so that jobs outlive a reload and a restart."""

from __future__ import annotations

import re
import secrets

import streamlit as st

from pages.server.serve import OWNER

TOKEN = re.compile(r"[0-9a-f]{64}")


def token() -> str:
    """The browser's secret. Without one (no cookies, or an app that serve.py did not start) a secret of the session."""
    kept: str | None = st.session_state.get("owner")
    if kept is None:
        sent = st.context.cookies.get(OWNER)
        kept = sent if isinstance(sent, str) and TOKEN.fullmatch(sent) else secrets.token_hex(32)
        st.session_state["owner"] = kept
    return kept
