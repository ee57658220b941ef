"""What the app holds while somebody looks at everything, and after they have gone: `python -m benchmarks.soak`.

A real browser goes through every page of every workload, drags each Dial and opens each tab, then closes. Written to
results/soak.md: the server's resident memory at the start, page by page, and until it has given back what it kept.
`--minutes 30` is one person's half hour; the default does the same walk without the pauses.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.browser import chromium
from benchmarks.ledger import RESULTS
from benchmarks.machine import machine
from benchmarks.screen import DRAWN, STOPS
from benchmarks.server import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORKLOADS = ("digits", "docstrings", "mnist")
PAGES = ("Home", "Prune", "Quantize", "Distill", "Ensemble", "Cascade", "Pipeline", "Fuse")
MOST_MB, BACK_MB = 900, 100  # the bars: after the walk; above the start, some minutes after the last browser has gone
SETTLE_MS = 700  # a hand needs longer between two moves
LIMIT_MS = 60_000  # for a page to be drawn


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def listens(address: str) -> int:
    """The process that was started to serve this address."""
    port = address.rsplit(":", 1)[1]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if [b"--port", port.encode()] in (words[i : i + 2] for i in range(len(words))):
            return int(folder.name)
    raise RuntimeError(f"no process serves {address}")


def hands(page: Page) -> Iterator[str]:
    """One move after the other on an open page, without end: a tab, a drag of the Dial; says which."""
    for turn in itertools.count():
        tabs, sliders = page.get_by_role("tab"), page.locator(".dial input[type=range]")
        if count := tabs.count():
            tabs.nth(turn % count).click(timeout=LIMIT_MS)
            yield "tab"
        if sliders.count():
            drag(page, STOPS[turn % len(STOPS)])
            yield "drag"
        if not count and not sliders.count():
            yield "look"


def drag(page: Page, share: float) -> None:
    """Take the Dial's handle to `share` of its range."""
    slider = page.locator(".dial input[type=range]").first
    slider.scroll_into_view_if_needed(timeout=LIMIT_MS)
    box = slider.bounding_box(timeout=LIMIT_MS)
    if box is None:
        return
    y, thumb = box["y"] + box["height"] / 2, 9
    now = slider.evaluate("s => (s.value - s.min) / (s.max - s.min)")
    page.mouse.move(box["x"] + thumb + now * (box["width"] - 2 * thumb), y)
    page.mouse.down()
    page.mouse.move(box["x"] + thumb + share * (box["width"] - 2 * thumb), y, steps=6)
    page.mouse.up()


def visit(page: Page, name: str, seconds: float) -> int:
    """Open a page by its link and work on it for so long; returns the number of moves."""
    page.get_by_role("link", name=name, exact=True).first.click(timeout=LIMIT_MS)
    if name != "Home":
        page.wait_for_selector(DRAWN, timeout=LIMIT_MS)
    end, moves = time.monotonic() + seconds, 0
    for _ in hands(page):
        moves += 1
        page.wait_for_timeout(SETTLE_MS)
        if time.monotonic() > end:
            return moves
    return moves


def walk(page: Page, address: str, pid: int, minutes: float) -> Iterator[str]:
    """Rows of the table: every page of every workload."""
    begun, each_s = time.monotonic(), minutes * 60 / (len(WORKLOADS) * len(PAGES))
    for workload in WORKLOADS:
        page.goto(f"{address}/?workload={workload}")
        for name in PAGES:
            moves = visit(page, name, each_s)
            yield f"| {(time.monotonic() - begun) / 60:.1f} | {workload} · {name} | {moves} | {resident_mb(pid):.0f} |"


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=4, help="how long the walk takes")
    parser.add_argument("--after", type=float, default=6, help="minutes that are watched once the browser has gone")
    options = parser.parse_args()
    lines = ["# Memory of the server", "", machine(), "", "| min | where | moves | resident MB |", "|--:|---|--:|--:|"]
    print("\n".join(lines), flush=True)

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    with served("--no-browser") as address:
        pid = listens(address)
        time.sleep(10)  # the default model is measured beside the start
        start = resident_mb(pid)
        say(f"| 0 | started, no browser yet | 0 | {start:.0f} |")
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            for row in walk(page, address, pid, options.minutes):
                say(row)
            walked = resident_mb(pid)
        gone = time.monotonic()
        while (passed := (time.monotonic() - gone) / 60) < options.after:
            time.sleep(min(30.0, options.after * 60))
            say(f"| +{passed:.1f} | nobody | 0 | {resident_mb(pid):.0f} |")
        left = resident_mb(pid)
    say("")
    say(f"After the walk {walked:.0f} MB (bar: {MOST_MB}); {options.after:g} minutes after the browser has gone ")
    say(f"{left:.0f} MB, {left - start:+.0f} MB from the start (bar: +{BACK_MB}).")
    (RESULTS / "soak.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
