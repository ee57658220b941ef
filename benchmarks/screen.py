"""L2, L6 and L7 in a real browser: a release that was measured before, the start of the app, the size of messages."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.server import served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET_MS = 700  # without a change of the page: the update is complete
STOPS = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the Dial's range
DRAWN = ".dial .plot .main-svg"

# From the release of the handle to the last change of the page before it is quiet.
WATCH = """quiet => new Promise(done => {
  let released = null, last = null, changes = 0;
  const stamp = () => { released = performance.now(); last = released; };
  addEventListener('pointerup', stamp, { capture: true, once: true });
  const observer = new MutationObserver(found => {
    if (released === null) return;
    last = performance.now();
    changes += found.length;
  });
  observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  const timer = setInterval(() => {
    if (released === null || performance.now() - last < quiet) return;
    clearInterval(timer);
    observer.disconnect();
    done({ ms: last - released, changes });
  }, 25);
})"""


@dataclass
class Traffic:
    """Bytes of the messages from Python, summed between two calls of `take`."""

    bytes_now: int = 0

    def listen(self, page: Page) -> None:
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: str | bytes) -> None:
        self.bytes_now += len(payload)

    def take(self) -> int:
        taken, self.bytes_now = self.bytes_now, 0
        return taken


def release(page: Page, share: float) -> float:
    """Drag the handle to `share` of its range and let go: milliseconds until everything on the page has followed."""
    slider = page.locator(".dial input[type=range]").first
    box = slider.bounding_box()
    assert box is not None
    y, thumb = box["y"] + box["height"] / 2, 9
    now = slider.evaluate("s => (s.value - s.min) / (s.max - s.min)")
    page.mouse.move(box["x"] + thumb + now * (box["width"] - 2 * thumb), y)
    page.mouse.down()
    page.mouse.move(box["x"] + thumb + share * (box["width"] - 2 * thumb), y, steps=4)
    page.evaluate(f"() => {{ globalThis.watching = ({WATCH})({QUIET_MS}); }}")  # not awaited here
    page.wait_for_timeout(60)
    page.mouse.up()
    result: dict[str, Any] = page.evaluate("globalThis.watching")
    assert result["changes"], "nothing on the page followed the release"
    return float(result["ms"])


def releases(page: Page, traffic: Traffic, rounds: int) -> tuple[list[float], list[float], list[int]]:
    """(first visits, visits of settings measured before: milliseconds; bytes of each of the latter)."""
    first = [release(page, stop) for stop in STOPS]
    traffic.take()
    again, sizes = [], []
    for _ in range(rounds):
        for stop in STOPS:
            again.append(release(page, stop))
            sizes.append(traffic.take())
    return first, again, sizes


def start(browser: Browser, path: str = "prune") -> float:
    """Milliseconds from starting the process to a drawn Dial with measured points, in a browser that stands ready."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    begun = time.perf_counter()
    with served("--no-browser") as address:
        page.goto(f"{address}/{path}")
        page.wait_for_selector(DRAWN, timeout=120_000)
        page.wait_for_function("document.querySelector('.mo-cards') && /kB/.test(document.body.innerText)")
        taken = (time.perf_counter() - begun) * 1e3
        page.close()
    return taken
