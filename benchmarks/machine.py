"""Where and when a table was measured."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnxruntime
import streamlit
import torch


def machine() -> str:
    """One line: processor, cores, versions, date."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, {versions}, Streamlit {streamlit.__version__}, {today}"


def row(bar: str, what: str, times_ms: Iterable[float], limit: str) -> str:
    """A table row: median, quartiles, 95th percentile and worst of times in milliseconds."""
    t = np.asarray(list(times_ms))
    low, median, high, p95 = np.percentile(t, [25, 50, 75, 95])
    return (
        f"| {bar} | {what} | {len(t)} | {median:.3g} | {low:.3g} – {high:.3g} | {p95:.3g} | {t.max():.3g} | {limit} |"
    )


HEADER = "| bar | what | n | median ms | quartiles | p95 | worst | limit |\n|---|---|--:|--:|--:|--:|--:|---|"
