"""Text that others may have written, on the screen as it is: Streamlit draws nearly everything as Markdown.

A link, a model's name, a file: an image in one would be fetched, and tell its owner that the page was read.
"""

from __future__ import annotations

import re

import streamlit as st

NOTHING = "\u2060"  # a word joiner: has no width, and keeps the line from being broken here
SIGNS = re.compile(r"[\\`*\[\]<>&$~|]|:(?=[^\W\d_]|:)|(?<![^\W_])_|_(?![^\W_])")  # snake_case needs no escape
# Emoji, icons and bare links are found in the text after the escapes are gone: a backslash stops none.
WORDS = re.compile(r"(?<=:)(?=[\w+/-]+\\?:|//)|(?<=@)(?=\w)|(?<=www)(?=\.)", re.IGNORECASE)
BLOCK = re.compile(r"^(?:(\d{1,9})(?=[.)])|(?=[#+=-]))")  # a list, a heading, a line
ERROR = ":material/error:"


def plain(text: object) -> str:
    """The text in one line as Markdown that shows it letter by letter."""
    line = " ".join(str(text).split())
    line = SIGNS.sub(r"\\\g<0>", line)
    return BLOCK.sub(r"\1\\", WORDS.sub(NOTHING, line))


def error(text: object) -> None:
    """A red box: nothing can be drawn."""
    st.error(plain(text), icon=ERROR)


def warning(text: object, icon: str = ERROR) -> None:
    """A yellow box where something went wrong; the rest of the page stands."""
    st.warning(plain(text), icon=icon)


def caption(text: object) -> None:
    """A small line."""
    st.caption(plain(text))


def toast(text: object, icon: str = ERROR, duration: str = "short") -> None:
    """A note in the corner."""
    st.toast(plain(text), icon=icon, duration=duration)  # type: ignore[arg-type]
