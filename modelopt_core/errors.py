"""One error family for users: it says what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ModelOptError(ValueError):
    """Anything a user can mend. The text is one line: the value, the choices, the way out."""


class DataMissing(ModelOptError):
    """A data set or a weights file is absent or damaged; the text names it and the command that mends it."""


class FieldError(ModelOptError):
    """A step was told what it can't be. field: its field's name; empty where it is about several."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


def plain(value: object) -> str:
    """A value in a sentence: its first 80 characters, and no line end or half a character among them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value)[:80])


def unknown(kind: str, given: object, known: Iterable[str]) -> ModelOptError:
    """The error for a name that is not registered: `unknown criterion 'l3'; choose from l1, random`."""
    names = sorted(known)
    close = difflib.get_close_matches(str(given), names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return ModelOptError(f"unknown {kind} {str(given)[:80]!r}{hint}; choose from {', '.join(names)}")
