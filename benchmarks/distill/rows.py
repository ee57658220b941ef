"""What was measured so far: one JSON file of named rows, a row a line; several processes may add to it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.checkpoints import CACHE
from benchmarks.machine import machine
from modelopt_core.machine import atomic

RESULTS = Path(__file__).parent.parent / "results" / "distill.json"


def read() -> dict[str, Any]:
    """What was measured so far."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def keep(name: str, row: dict[str, object]) -> None:
    """Add one row, with where and when it was measured."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "distill.lock"):  # several seeds may run at once
        rows = {**read(), name: {**row, "machine": machine()}}
        text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(rows.items()))
        RESULTS.parent.mkdir(exist_ok=True)
        atomic.write(RESULTS, f"{{\n{text}\n}}\n".encode())


def minutes(start: float) -> float:
    """Since `start`, of the machine as it was, with whatever else ran on it."""
    return round((time.perf_counter() - start) / 60, 1)
