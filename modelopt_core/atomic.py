"""Writing a file so that its reader meets the old one or the new one, never half of either."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from modelopt_core.errors import ModelOptError


def write(path: str | Path, data: bytes) -> Path:
    """Write `data` beside `path`, flush it to the disk, then rename. A failure leaves no file behind and says why."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ModelOptError(
            f"cannot write {str(path)!r} ({reason}); choose a folder with room and write access"
        ) from error
    return path
