"""How many of the project's functions one release calls: a full rerun of page Prune on digits cnn.

`python -m benchmarks.calls` prints, for a setting never seen and for a known one, the calls of named functions by file.
Comprehensions and resumed generators are not counted, and neither is the background's curve.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = tuple(str(ROOT / name) for name in ("modelopt_core", "pages", "app.py"))
LIMITS = {"a setting never seen": 1800, "a known setting": 1000}
BACKGROUND = "modelopt-sweep"
MOST = 12  # files printed


def counted(work: Any) -> Counter[str]:
    """Calls by file while `work()` runs, in every thread but the background's."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(FOLDERS) or code.co_name.startswith("<"):
            return
        resumed = code.co_flags & inspect.CO_GENERATOR and frame.f_lasti > 0
        if not resumed and threading.current_thread().name != BACKGROUND:
            calls[str(Path(code.co_filename).relative_to(ROOT))] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls


def released(app: Any, ratio: float) -> Counter[str]:
    """What one rerun of the page calls when the Dial has been let go at this ratio."""
    app.session_state["Prune.ratio"] = ratio
    found = counted(app.run)
    assert not app.exception, app.exception
    return found


def measured() -> dict[str, Counter[str]]:
    """A release of a new setting, and of one that was measured before. The libraries are loaded and warm."""
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    app.query_params["workload"] = "digits"
    app.run()
    app.switch_page("pages/prune.py").run()
    for ratio in (0.31, 0.52):
        released(app, ratio)
    return {"a setting never seen": released(app, 0.43), "a known setting": released(app, 0.31)}


def main() -> None:
    """Print the tables; exit status 1 over a limit."""
    over = False
    print(machine())
    for what, calls in measured().items():
        total = sum(calls.values())
        over |= total > LIMITS[what]
        print(f"\n{what}: {total:,} calls in {len(calls)} files (limit {LIMITS[what]:,})")
        print(*(f"{n:6,}  {file}" for file, n in calls.most_common(MOST)), sep="\n")
    raise SystemExit(over)


if __name__ == "__main__":
    main()
