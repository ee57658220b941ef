"""Measured rows, one JSON object a line, added as they come: a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"


def append(name: str, **row: Any) -> None:
    """Add a row to `results/<name>.jsonl`, with machine, versions and date."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps({**row, "machine": machine()}) + "\n")


def rows(name: str, **which: Any) -> list[dict[str, Any]]:
    """The rows of `results/<name>.jsonl` whose fields have these values, in the order in which they came."""
    path = RESULTS / f"{name}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in found if all(row.get(key) == value for key, value in which.items())]
