"""Keys of what is kept: one sha256 of everything that made it."""

from __future__ import annotations

import hashlib

from modelopt_core.machine.cache import Unkept

CODE_VERSION = "3"  # raise when a step's meaning changes, so that stored results are not mistaken for new ones


def digest(*parts: object) -> str:
    """sha256 (hex) of the parts' text, unambiguous about where each ends; not to be kept if one of them is not."""
    text = "\x1f".join(str(part) for part in parts)
    found = hashlib.sha256(text.encode()).hexdigest()
    return Unkept(found) if any(isinstance(part, Unkept) for part in parts) else found
