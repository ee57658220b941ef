"""Where the project's own files are: beside the package in a checkout, inside `modelopt_studio` in the wheel."""

from __future__ import annotations

from pathlib import Path

from modelopt_core.errors import DataMissing

_BESIDE = Path(__file__).resolve().parent.parent


def asset_path(*parts: str) -> Path:
    """The path of a file or folder under assets: `asset_path("zoo", "index.json")`. It need not exist.

    Raises DataMissing when there is no assets folder at all.
    """
    for root in (_BESIDE, _BESIDE / "modelopt_studio"):
        if (root / "assets" / "zoo").is_dir():
            return root.joinpath("assets", *parts)
    raise DataMissing(f"no assets/zoo beside {_BESIDE}; mend it: pip install --force-reinstall modelopt-studio")
