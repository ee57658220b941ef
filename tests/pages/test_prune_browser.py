"""What only a browser can do on the page Prune: type into the table of ratios, click on the heat map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.waiting import wait_until

pytestmark = pytest.mark.browser

HEAD, ROW = 0.25, 0.25  # of a table of three rows: its header and each row are of one height


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page with nothing to measure any more, so that nothing moves under the mouse."""
    page = browser.new_page(viewport={"width": 1440, "height": 1200})
    page.goto(f"{address}/prune?ratio=0.2")
    page.wait_for_selector(".mo-strip")
    page.locator(".dial.busy").wait_for(state="detached")
    yield page
    page.close()


def click(page: Any, table: str, column: float, row: int) -> None:
    """The cell of a table that is drawn on a canvas. column: where its middle lies, as a share of the width."""
    found = page.locator(f"[class*={table}] [data-testid=stDataFrame]").first
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    page.mouse.click(box["x"] + column * box["width"], box["y"] + (HEAD + (row + 0.5) * ROW) * box["height"])


def in_url(page: Any, text: str) -> None:
    page.wait_for_function("text => decodeURIComponent(location.href).includes(text)", arg=text)


def test_a_ratio_is_typed_a_layer_is_frozen_and_undo_takes_both_back(page: Any) -> None:
    editor = page.locator("#portal input")

    def opened() -> bool:
        """A click before the table is drawn, or a key before the cell has the focus, is lost."""
        click(page, "st-key-Prune-editor", 0.6, 0)
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        return bool(editor.count())

    wait_until(opened, "the editor of a cell")
    page.keyboard.type("0.75", delay=30)
    page.keyboard.press("Enter")
    in_url(page, "ratios=conv1:0.75")
    page.get_by_text("4 of 16").first.wait_for()
    page.locator(".dial.busy").wait_for(state="detached")
    click(page, "st-key-Prune-editor", 0.857, 2)
    in_url(page, "frozen=fc1")
    page.locator(".dial.busy").wait_for(state="detached")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("() => !location.href.includes('frozen')")
    page.locator(".dial.busy").wait_for(state="detached")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("() => !location.href.includes('ratios')")
    page.go_back()
    in_url(page, "ratios=conv1:0.75")


def test_a_click_on_the_heat_map_gives_that_layer_that_ratio(page: Any) -> None:
    page.get_by_role("tab", name="Sensitivity").click()
    page.wait_for_selector("[class*=st-key-sensitivity-table] canvas")
    page.get_by_text("measuring").wait_for(state="detached")
    page.wait_for_timeout(500)  # the table is drawn once more when the last cell is in
    click(page, "st-key-sensitivity-table", 0.55, 1)
    in_url(page, "ratios=conv2:0.5")
    page.get_by_role("tab", name="Layers").click()
    page.get_by_text("16 of 32").first.wait_for()
