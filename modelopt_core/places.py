"""Where the app, its pages and its assets are: beside this package in a checkout, under one folder in the wheel."""

from __future__ import annotations

from pathlib import Path

from modelopt_core.errors import DataMissing


def app_root() -> Path:
    """The folder that holds app.py, pages and assets: the checkout, or `modelopt_studio` beside the installed core."""
    beside = Path(__file__).resolve().parents[1]
    for root in (beside, beside / "modelopt_studio"):
        if (root / "pages" / "shared").is_dir() and (root / "assets").is_dir():
            return root
    raise DataMissing(
        f"the app's files are missing beside {beside}; mend it: pip install --force-reinstall modelopt-studio"
    )
