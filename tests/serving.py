"""The app as it lies when it is installed, for tests that need a server."""

from __future__ import annotations

import shutil
from pathlib import Path


def lay_out(root: Path, folder: Path, app: Path) -> Path:
    """`folder` as the wheel's modelopt_studio: pages, settings, and `app` as app.py. Returns its serve.py."""
    for name in ("pages", ".streamlit"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(app, folder / "app.py")
    return folder / "pages" / "server" / "serve.py"
