"""A link that a stranger wrote: its words are on the screen as they are, on every page, and draw nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from streamlit.testing.v1 import AppTest

from pages.state import address
from tests.pages.test_pages import TECHNIQUES, _quiet, lines, open_page  # noqa: F401  _quiet is a fixture

IMAGE, TAG = "![x](http://evil.example/a.png)", "<img src=http://evil.example/b.png>"
PRUNE = {"step": "Prune", "frozen": [f"{IMAGE} {TAG}"]}
VALUES = (
    f"{IMAGE} {TAG}",
    f"{IMAGE}:0.5,{TAG}:2",
    json.dumps({"on": "digits/cnn", "version": 1, "steps": [PRUNE]}),
    json.dumps(["mlp", {"on": "cnn", "steps": [PRUNE]}, {"on": IMAGE, "steps": []}]),
)
# What the browser draws letter by letter: test_serve.py looks.
LITERAL = {("Multiselect", "options"), ("Multiselect", "default"), ("Selectbox", "options"), ("Code", "code_text")}


def strings(message: Message) -> Iterator[tuple[str, str]]:
    """Every text in a message to the browser, with the name of its field."""
    for field, value in message.ListFields():
        for one in value if field.is_repeated and not hasattr(value, "keys") else (value,):
            if isinstance(one, Message):
                yield from strings(one)
            elif isinstance(one, str):
                yield field.name, one


def said(app: AppTest) -> Iterator[tuple[str, str, str]]:
    """What is on the screen: kind of element, field, text."""

    def walk(block: Any) -> Iterator[Any]:
        for child in getattr(block, "children", {}).values():
            yield child
            yield from walk(child)

    for element in walk(app._tree):
        if getattr(element, "proto", None) is not None:
            yield from ((type(element).__name__, field, text) for field, text in strings(element.proto))


@pytest.mark.parametrize("page", TECHNIQUES)
def test_a_strangers_words_draw_nothing(root: Any, page: str) -> None:
    names = [*address.BENCH, *open_page(root, page).session_state["url.fields"]]
    told = 0
    for value in VALUES:
        app = open_page(root, page, **{name: value for name in names if name != "view"})
        assert not app.exception
        told += any("Using the default" in line for line in lines(app))
        found = {(kind, field): text for kind, field, text in said(app) if (TAG if kind == "Html" else IMAGE) in text}
        assert {what: text for what, text in found.items() if what not in LITERAL} == {}
    assert told == len(VALUES)
