"""Where files are: the project's own beside the package (in the wheel inside `modelopt_studio`), and the user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelopt_core.errors import DataMissing

_BESIDE = Path(__file__).resolve().parents[2]


def asset_path(*parts: str) -> Path:
    """The path of a file or folder under assets: `asset_path("zoo", "index.json")`. It need not exist.

    Raises DataMissing when there is no assets folder at all.
    """
    for root in (_BESIDE, _BESIDE / "modelopt_studio"):
        if (root / "assets" / "zoo").is_dir():
            return root.joinpath("assets", *parts)
    raise DataMissing(f"no assets/zoo beside {_BESIDE}; mend it: pip install --force-reinstall modelopt-studio")


def user_folder() -> Path:
    """The folder for this user's data by the platform's custom; it need not exist."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "modelopt-studio"
