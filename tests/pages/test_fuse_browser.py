"""The page Fuse in a real browser: from one network to the other by hand, and back by reloading and in a second tab."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser


def test_the_share_is_dragged_kept_and_found_in_a_second_tab(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1400})
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(f"{address}/fuse")
    page.wait_for_selector("input[type=range]")
    page.get_by_text("aligned, norms re-estimated").first.wait_for()
    slider = page.locator("input[type=range]")
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 9, middle, steps=6)
    page.mouse.up()
    page.wait_for_url("**weights=0.0%2C1.0**")
    page.reload()
    page.wait_for_selector(".mo-cards")
    second = browser.new_page(viewport={"width": 1440, "height": 900})
    second.goto(page.url)
    second.wait_for_selector("input[type=range]")
    score = second.locator(".mo-card.mo-score strong")
    assert score.inner_text() == page.locator(".mo-card.mo-score strong").inner_text()
    second.get_by_text("outputs", exact=True).click()
    second.get_by_text("cross-fitted").first.wait_for()
    assert failures == []
    for one in (page, second):
        one.close()
