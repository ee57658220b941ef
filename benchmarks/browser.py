"""What a user's hand feels, measured in a real browser: `python -m benchmarks.browser` (Playwright, system chromium).

L1: a drag of the Dial. A frame's work runs from its first animation callback to the moment after style, layout and
paint; the interval between frames says whether the browser kept its 60 a second.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.machine import HEADER, machine, row
from benchmarks.screen import DRAWN, Traffic, releases, start
from benchmarks.server import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WORK_BAR_MS = 16.0  # L1: p95
DRAGS = 5

# A message posted in an animation callback is handled after the frame's paint.
RECORD = """plot => {
  const record = { work: [], stamps: [], sent: 0, removed: 0, plot, on: true };
  const channel = new MessageChannel();
  let begun = 0;
  channel.port1.onmessage = () => record.work.push(performance.now() - begun);
  const tick = stamp => {
    if (!record.on) return;
    begun = performance.now();
    record.stamps.push(stamp);
    channel.port2.postMessage(0);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (...message) { record.sent += 1; return send.apply(this, message); };
  const observer = new MutationObserver(changes => changes.forEach(c => record.removed += c.removedNodes.length));
  observer.observe(plot, { childList: true });
  record.stop = () => { record.on = false; observer.disconnect(); WebSocket.prototype.send = send; };
  globalThis.dialRecord = record;
}"""
RESULT = """plot => {
  const { work, stamps, sent, removed, plot: before, stop } = globalThis.dialRecord;
  stop();
  return { work, intervals: stamps.slice(1).map((t, i) => t - stamps[i]), sent, removed, same: before === plot };
}"""


@dataclass(frozen=True)
class Drag:
    """One drag, recorded from the press to just before the release."""

    moves: int
    work_ms: list[float]  # per frame
    interval_ms: list[float]  # between frames
    messages: int  # that the page sent to Python meanwhile
    removed: int  # children of the plot's node that were taken out
    same_node: bool

    def p95(self, values: list[float]) -> float:
        return statistics.quantiles(values, n=20)[-1]

    def __str__(self) -> str:
        work, interval = self.work_ms, self.interval_ms
        return (
            f"{self.moves} moves, {len(work)} frames: work per frame median {statistics.median(work):.1f} ms, "
            f"p95 {self.p95(work):.1f} ms, longest {max(work):.1f} ms (bar p95 ≤ {WORK_BAR_MS:g}); "
            f"between frames median {statistics.median(interval):.1f} ms, p95 {self.p95(interval):.1f} ms; "
            f"{self.messages} messages to Python, node {'kept' if self.same_node and not self.removed else 'rebuilt'}"
        )


def drag(page: Page, *, moves: int = 60, pause_ms: float = 12) -> Drag:
    """Drag the first Dial of the page over most of its range, in `moves` steps to and fro; hold, measure, release."""
    plot = page.locator(".dial .plot").first
    slider = page.locator(".dial input[type=range]").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None, "the Dial isn't visible"
    y = box["y"] + box["height"] / 2
    share = slider.evaluate("s => (s.value - s.min) / (s.max - s.min)")
    thumb = 9  # px
    page.mouse.move(box["x"] + thumb + share * (box["width"] - 2 * thumb), y)
    page.mouse.down()
    plot.evaluate(RECORD)
    for i in range(moves):
        there = abs(((share + 2 * (i + 1) / moves) % 2) - 1)  # a triangle wave, twice over the range
        page.mouse.move(box["x"] + thumb + (0.02 + 0.96 * there) * (box["width"] - 2 * thumb), y)
        page.wait_for_timeout(pause_ms)
    result: dict[str, Any] = plot.evaluate(RESULT)
    page.mouse.up()
    return Drag(moves, result["work"], result["intervals"], result["sent"], result["removed"], bool(result["same"]))


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's chromium, headless, as a Playwright browser."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("no chromium found; install it, or put it on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def drags(page: Page, when: str) -> None:
    """Print L1."""
    found = []
    for _ in range(DRAGS):
        found.append(drag(page))
        page.wait_for_timeout(1_000)
    work = [t for one in found for t in one.work_ms]
    between = [t for one in found for t in one.interval_ms]
    print(row("L1", f"work per frame of a drag of 60 moves, {when}", work, f"p95 ≤ {WORK_BAR_MS:g}"))
    print(row("L1", f"between frames, {when}", between, "60 a second"))
    kept = all(one.same_node and not one.removed for one in found)
    sent = sum(one.messages for one in found)
    print(f"| L1 | messages to Python (polls of the curve), {when} | {DRAGS} | {sent} | chart kept: {kept} | | | 0 |")


def main() -> None:
    """Print L1, L2, L6 and L7."""
    print(f"{machine()}\n\n{HEADER}", flush=True)
    with chromium() as browser:
        print(row("L6", "start of the process to a drawn Dial on /prune", [start(browser) for _ in range(7)], "≤ 5000"))
        with served("--no-browser") as address:
            for name in ("prune", "quantize"):
                page, traffic = browser.new_page(viewport={"width": 1440, "height": 900}), Traffic()
                traffic.listen(page)
                page.goto(f"{address}/{name}")
                page.wait_for_selector(DRAWN, timeout=60_000)
                if name == "prune":
                    drags(page, "while measuring")
                page.locator(".dial.busy").wait_for(state="detached", timeout=120_000)
                if name == "prune":
                    drags(page, "measured")
                first, again, sizes = releases(page, traffic, rounds=6)
                print(
                    row("L2", f"{name}: release to everything updated, measured before", again, "p50 ≤ 200, p95 ≤ 400")
                )
                print(row("", f"{name}: release to everything updated, first visit", first, "reported"))
                charts = page.locator(".js-plotly-plot").count()
                largest = f"{max(sizes) / 1000:.1f} kB, {charts} charts"
                print(
                    f"| L7 | {name}: largest release, all messages | {len(sizes)} | {largest} | | | | ≤ 100 kB, ≤ 4 |"
                )
                page.close()


if __name__ == "__main__":
    main()
