"""The app in a real browser, as a user meets it: doors, drag, keys, tabs, link, undo, views, both colour schemes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

RATIO = "input[type=range]"
SCORE = ".mo-score strong"
PROBES = ("/_stcore/health", "/_stcore/host-config")  # Streamlit asks for them below the page's path first


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        color_scheme="light",
        permissions=["clipboard-read", "clipboard-write"],
        accept_downloads=True,
    )
    yield context
    context.close()


def opened(context: Any, url: str) -> Any:
    """A page with its cards drawn; what goes wrong in it fails the test."""
    page = context.new_page()
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.on("response", lambda r: page.failures.append(f"{r.status} {r.url}") if _failed(r) else None)
    page.goto(url)
    page.wait_for_selector(SCORE)
    return page


def _failed(response: Any) -> bool:
    return bool(response.status >= 400) and not response.url.endswith(PROBES)


def drag(page: Any, to: float) -> None:
    """Take the Dial's handle from where it is to a share of its range, as a mouse does."""
    slider = page.locator(RATIO)
    box = slider.bounding_box()
    share = slider.evaluate("s => (s.value - s.min) / (s.max - s.min)")
    middle, thumb = box["y"] + box["height"] / 2, 9
    span = box["width"] - 2 * thumb
    page.mouse.move(box["x"] + thumb + share * span, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + thumb + to * span, middle, steps=8)
    page.mouse.up()


def in_url(page: Any, text: str) -> None:
    """Wait until the address says so: Python has taken the value over."""
    page.wait_for_function("text => location.href.includes(text)", arg=text)


def score(page: Any) -> str:
    return str(page.locator(SCORE).inner_text())


def test_a_door_leads_to_a_live_dial(context: Any, address: str) -> None:
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="Open Tune").click()
    page.wait_for_selector(SCORE)
    page.wait_for_selector(".dial .plot .main-svg")
    assert "/prune" in page.url


def test_a_release_moves_everything_and_nothing_is_rebuilt(context: Any, address: str) -> None:
    page = opened(context, f"{address}/prune?ratio=0.1")
    page.wait_for_selector(".dial .plot .main-svg")
    plot = page.locator(".dial .plot")
    plot.evaluate("plot => { plot.kept = true; }")
    before, rows = score(page), page.locator(".mo-table").inner_text()
    drag(page, 0.9)
    page.wait_for_function("before => document.querySelector('.mo-score strong').innerText !== before", arg=before)
    page.wait_for_function("rows => document.querySelector('.mo-table').innerText !== rows", arg=rows)
    assert plot.evaluate("plot => plot.kept") is True
    assert "ratio=0.1&" not in page.url
    assert page.failures == []


def test_keys_undo_reset_and_back(context: Any, address: str) -> None:
    page = opened(context, f"{address}/prune?ratio=0.6")
    first = score(page)
    page.locator(RATIO).focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    in_url(page, "ratio=0.64")
    page.get_by_role("button", name="Undo").click()
    in_url(page, "ratio=0.6&")
    page.wait_for_function("text => document.querySelector('.mo-score strong').innerText === text", arg=first)
    page.get_by_role("button", name="Reset").click()
    in_url(page, "ratio=0.3&")
    page.go_back()
    in_url(page, "ratio=0.6&")
    page.wait_for_function("text => document.querySelector('.mo-score strong').innerText === text", arg=first)


def test_the_copied_link_opens_the_same_page(context: Any, address: str) -> None:
    page = opened(context, f"{address}/quantize?bits=3&scheme=affine&model=mlp")
    page.get_by_role("button", name="Copy link").click()
    page.get_by_role("button", name="Link copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    again = opened(context, link)
    assert again.url == page.url == link
    assert score(again) == score(page)


def test_all_tabs_twice(context: Any, address: str) -> None:
    page = opened(context, f"{address}/prune?ratio=0.4")
    content = {
        "Layers": ".mo-table",
        "Criteria": ".st-key-criteria-chart svg",
        "Sensitivity": ".st-key-sensitivity-table canvas",
        "Weights": ".mo-weights img",
        "Removed": ".st-key-removed-chart svg",
        "Article": ".st-key-article button",
        "Examples": ".mo-example img",
        "Source": "pre",
        "Numbers": ".st-key-runs-table",
    }
    for name, inside in [*content.items(), *content.items()]:
        page.get_by_role("tab", name=name).click()
        page.locator(inside).first.wait_for()
    assert page.failures == []


def test_learn_asks_before_it_shows(context: Any, address: str) -> None:
    page = opened(context, f"{address}/prune?view=learn")
    assert "Where will it break?" in page.locator(".mo-ask").inner_text()
    assert page.locator(".dial .plot .scatterlayer .trace").count() == 0
    drag(page, 0.3)
    page.get_by_text("Your guess: p = ").wait_for()
    page.get_by_text("You were").wait_for()
    page.wait_for_selector(".dial .plot .scatterlayer .trace")


def test_present_steps_through_snapshots_and_exports(context: Any, address: str, tmp_path: Path) -> None:
    page = opened(context, f"{address}/prune?view=present&ratio=0.2")
    page.get_by_role("button", name="Save snapshot").click()
    page.get_by_label("Name").fill("<img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    page.get_by_text("1 of 1: <img").wait_for()
    page.keyboard.press("Escape")
    for turn in (lambda: page.get_by_role("button", name="Next").click(), lambda: page.keyboard.press("PageDown")):
        drag(page, 0.8)  # the handle has the focus now, and a clicker's key is for the snapshots all the same
        page.wait_for_function("() => !location.href.includes('ratio=0.2&')")
        turn()
        in_url(page, "ratio=0.2&")
    hidden = page.locator("[data-testid=stSidebar] :is(input, button, a)").evaluate_all(
        "all => all.every(e => getComputedStyle(e).visibility === 'hidden')"
    )
    assert hidden  # no Tab lands in a sidebar that stepped aside
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "result.html"
    download.value.save_as(file)
    assert "modelopt run recipe.json" in file.read_text("utf-8")
    assert page.failures == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1920])
def test_nothing_overflows(context: Any, address: str, scheme: str, width: int) -> None:
    """No text is cut off in a card, and no page scrolls sideways."""
    page = opened(context, f"{address}/quantize?bits=4")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    cut = page.evaluate(
        "[...document.querySelectorAll('.mo-card, .mo-card *')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && getComputedStyle(e).display !== 'inline').map(e => e.textContent)"
    )
    assert cut == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    colour = page.evaluate("getComputedStyle(document.querySelector('.mo-score strong')).color")
    assert colour == {"light": "rgb(37, 99, 235)", "dark": "rgb(96, 165, 250)"}[scheme]
