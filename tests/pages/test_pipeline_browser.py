"""The page Pipeline in a real browser: stages from a button, a switch, a release of the Dial, reload, a second tab."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pages.test_browser import SCORE, in_url, opened

pytestmark = pytest.mark.browser


def test_composed_switched_released_and_opened_again(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1200})
    page = opened(context, f"{address}/pipeline")
    page.wait_for_selector(".dial .plot .main-svg")
    first = page.locator(SCORE).inner_text()
    page.get_by_role("button", name="Ready-made").click()
    page.get_by_role("button", name="quality → repair → digit").click()
    in_url(page, "stages=quality%2Crepair%2Cdigit")
    page.wait_for_function("text => document.querySelector('.mo-score strong').innerText !== text", arg=first)
    page.get_by_text("half of them damaged (simulated)").first.wait_for()
    page.get_by_role("radio", name="oracle").nth(1).click()
    in_url(page, "switches=repair%3Aoracle")
    page.get_by_text("simulated: an oracle knows the truth").wait_for()
    before = page.locator(SCORE).inner_text()
    page.get_by_role("combobox", name="model").last.click()
    page.get_by_role("option", name="mlp", exact=True).click()
    in_url(page, "members=quality%2Crepair%2Cmlp")
    page.wait_for_function("text => document.querySelector('.mo-score strong').innerText !== text", arg=before)
    page.locator("input[type=range]").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    in_url(page, "suspicion=0.55")
    page.get_by_role("tab", name="Errors").click()
    page.wait_for_selector(".sankey-link")
    score = page.locator(SCORE).inner_text()
    page.reload()
    other = opened(context, page.url)
    for one in (page, other):
        one.wait_for_function("text => document.querySelector('.mo-score strong')?.innerText === text", arg=score)
        assert "switches=repair%3Aoracle" in one.url
        assert one.failures == []
    context.close()
