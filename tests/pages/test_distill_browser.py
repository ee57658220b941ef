"""Softened probabilities in a real browser: they move while the Dial is dragged, before Python hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import served
from modelopt_core.studies.jobs import Job
from tests.waiting import SOON_S, wait_until

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def address(root: Path, folder: Path, chromium: str) -> Iterator[str]:
    launcher = root / "pages" / "server" / "serve.py"
    with served("--no-browser", launcher=launcher, MODELOPT_JOBS=str(folder)) as url:
        yield url


def test_probabilities_follow_the_handle_and_examples_can_be_picked(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1400})
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(f"{address}/distill?temperature=4")
    page.wait_for_selector(".softened .columns")
    shown = page.locator(".softened dd")
    assert shown.first.inner_text() == "4"
    sharp = float(page.locator(".softened .columns small").nth(29).inner_text())

    slider = page.locator("input[type=range]")
    box = slider.bounding_box()
    middle, share = box["y"] + box["height"] / 2, (4 - 1) / (20 - 1)
    page.mouse.move(box["x"] + 9 + share * (box["width"] - 18), middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 9, middle, steps=6)
    wait_until(lambda: shown.first.inner_text() == "20", "the temperature under the handle", SOON_S)
    assert shown.nth(2).inner_text() == "360", "0.9 · 20²"
    assert "temperature=4" in page.url, "the handle is still held"
    flat = [float(page.locator(".softened .columns small").nth(i).inner_text()) for i in range(10)]
    assert sum(flat) == pytest.approx(100, abs=5)
    assert float(page.locator(".softened .columns small").nth(29).inner_text()) != sharp
    page.mouse.up()
    page.wait_for_function("text => location.href.includes(text)", arg="temperature=20")

    buttons = page.locator(".softened .strip button")
    chosen = [buttons.nth(i).get_attribute("aria-pressed") for i in range(buttons.count())]
    assert chosen.count("true") == 3
    buttons.nth(chosen.index("false")).click()
    assert buttons.nth(chosen.index("false")).get_attribute("aria-pressed") == "true"
    assert page.locator(".softened figure").count() == 3
    assert failures == []
    page.close()


def test_one_run_trains_both_students(browser: Any, address: str, folder: Path) -> None:
    """From Run to two curves and cards, without a reload; in Learn no curve before the guess."""
    page = browser.new_page(viewport={"width": 1440, "height": 1400})
    page.goto(f"{address}/distill?width=0.3&epochs=6&batch_size=8&view=learn")
    page.locator(".st-key-work-run button").click()
    page.locator(".st-key-work-panel >> text=examples per second").wait_for()
    assert page.locator(".st-key-work-panel figure").count() == 0
    page.get_by_role("radio", name="Tune").click()
    page.get_by_role("tab", name="Softened", selected=True).wait_for()  # the tabs of Tune; Learn begins with Source
    page.get_by_role("tab", name="Training").click()
    page.wait_for_selector(".mo-cards")  # the job is done
    page.wait_for_function("""() => {
        const plot = document.querySelector(".st-key-distill-curves .js-plotly-plot");
        const names = plot?.data.map((line) => line.name);
        return names?.includes("with the teacher") && names.includes("without a teacher");
    }""")
    [path] = folder.glob("*/job.json")
    assert Job(path.parent).paired == [(False, 0), (True, 0)]
    page.close()
