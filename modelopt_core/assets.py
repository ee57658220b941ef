"""The project's own files under assets: shipped weights, logo, theme."""

from __future__ import annotations

from pathlib import Path

from modelopt_core.places import app_root


def asset_path(*parts: str) -> Path:
    """The path of a file or folder under assets: `asset_path("zoo", "index.json")`. It need not exist.

    Raises DataMissing when the assets folder itself is nowhere.
    """
    return app_root().joinpath("assets", *parts)
