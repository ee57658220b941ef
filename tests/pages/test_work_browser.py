"""L8 in a real browser: long work moves a bar, stands still, goes on and stops, and the page stays usable meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.server import served
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job
from tests.serving import lay_out
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

PANEL, BAR = ".st-key-work-panel", ".st-key-work-panel .bar"
LINK = "/?epochs=20&batch_size=1&model=mlp"  # some 20,000 steps: seconds, on any machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def address(root: Path, folder: Path, chromium: str) -> Iterator[str]:
    launcher = lay_out(root, folder / "modelopt_studio", root / "tests/apps/work_app.py")
    places = {"MODELOPT_JOBS": str(folder / "jobs"), "MODELOPT_COUNT": str(folder / "runs")}
    with served("--no-browser", launcher=launcher, **places) as url:
        yield url
    for path in (folder / "jobs").glob(f"*/{jobs.LOCK}"):
        with contextlib.suppress(jobs.JobError):
            Job(path.parent).cancel()


@pytest.fixture
def window(browser: Any) -> Iterator[Any]:
    """Opens windows of one browser each, with cookies of its own."""
    contexts: list[Any] = []

    def opened(link: str, context: Any = None) -> Any:
        if context is None:
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            contexts.append(context)
        page = context.new_page()
        page.goto(link)
        page.wait_for_selector(PANEL)
        return page

    yield opened
    for context in contexts:
        context.close()


def moved(page: Any, before: str) -> str:
    """Wait until the bar stands elsewhere; where it stands then."""

    def now() -> str:
        return str(page.locator(BAR).get_attribute("data-share"))

    return wait_until(lambda: (at := now()) != before and at, f"the bar to leave {before}") or before


def says(page: Any, text: str) -> None:
    """Wait until the panel does."""
    page.locator(f"{PANEL} >> text={text}").wait_for()


def press(page: Any, name: str) -> None:
    page.locator(f".st-key-work-{name} button").click()


def test_long_work_from_run_to_stop(window: Any, address: str, folder: Path) -> None:
    page = window(address + LINK)
    says(page, "Not measured")
    top = page.locator(".st-key-dial-card").bounding_box()["y"]
    press(page, "run")
    at = moved(page, "0")
    page.locator(BAR).evaluate("bar => { bar.kept = true; }")
    for _ in range(3):
        at = moved(page, at)
    assert page.locator(BAR).evaluate("bar => bar.kept") is True  # one bar that moves, not a new one each time
    assert page.locator(".st-key-dial-card").bounding_box()["y"] == pytest.approx(top, abs=1)  # nothing jumped
    assert page.locator(f"{PANEL} path").count() >= 1  # the curve of the loss

    other = window(address + LINK)  # another browser: another owner, and not slowed down to a halt
    says(other, "Not measured")
    other.locator("input[type=range]").focus()
    other.keyboard.press("ArrowLeft")
    other.wait_for_function("() => location.href.includes('epochs=19')")

    press(page, "pause")
    says(page, "Paused")
    [job] = [Job(path.parent) for path in (folder / "jobs").glob("*/job.json")]
    assert job.state == "paused"
    stood = page.locator(BAR).get_attribute("data-share")
    told = len(job.events())
    press(page, "step")
    wait_until(lambda: any(e["kind"] == "progress" for e in job.events(told)), "one step")
    page.wait_for_timeout(700)
    assert sum(e["kind"] == "progress" for e in job.events(told)) == 1

    page.reload()  # the browser finds its job again
    page.wait_for_selector(BAR)
    second = window(address + LINK, page.context)
    says(second, "Paused")
    press(second, "resume")
    moved(page, str(stood))
    press(page, "cancel")
    says(page, "Not measured")
    assert job.state == "cancelled"

    away = window(f"{address}/?epochs=3", page.context)
    away.locator(".st-key-jobs-list button").first.click()
    away.get_by_test_id("stPopoverBody").get_by_role("button", name="Open").click()
    away.wait_for_function("() => location.href.includes('epochs=20') && location.href.includes('model=mlp')")
    processes = set((folder / "runs").read_text().split())
    assert len(processes) == 1  # app.py ran in the server alone
    assert not processes & {str(event["pid"]) for event in job.events() if "pid" in event}
