"""The Dial in a real browser, on tests/apps/dial_app.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.browser import drag
from benchmarks.server import served
from tests.serving import lay_out

MOST_BYTES = 100_000  # L7: message per knob
PLOT_RANGE = "plot => [plot._fullLayout.xaxis.range, plot._fullLayout.yaxis.range]"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(root: Path, tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dial") / "studio"
    with served("--no-browser", launcher=lay_out(root, folder, root / "tests/apps/dial_app.py")) as url:
        yield url


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light", has_touch=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.errors = errors
    yield page
    context.close()


def opened(page: Any, address: str, mode: str = "full") -> Any:
    """The page with its curve drawn; returns the slider."""
    page.goto(f"{address}/?mode={mode}")
    page.wait_for_selector(".dial .plot .main-svg")
    return page.locator(".dial input[type=range]")


def held(page: Any, value: str) -> None:
    """Wait until Python holds the value and the handle shows it."""
    page.get_by_text(f"held {value} after").wait_for()


def test_drag_sends_nothing_and_release_sends_once(page: Any, address: str) -> None:
    opened(page, address)
    recorded = drag(page)
    assert recorded.messages == 0
    assert recorded.same_node
    assert recorded.removed == 0
    assert len(recorded.work_ms) > 10
    label = page.locator(".dial .label").inner_text()
    assert label != "p = 0.62"
    page.get_by_text(f"held {float(label.removeprefix('p = ')):g} after 2 runs").wait_for()
    assert page.errors == []


def test_new_points_keep_zoom_handle_and_node(page: Any, address: str) -> None:
    slider = opened(page, address, "stream")
    plot = page.locator(".dial .plot")
    plot.evaluate("plot => { globalThis.kept = plot; }")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 600, box["y"] + 200, steps=5)
    page.mouse.up()
    zoomed = plot.evaluate(PLOT_RANGE)
    assert zoomed[0][0] > 0.05
    recorded = drag(page, moves=40)
    assert recorded.same_node
    assert recorded.removed == 0
    page.get_by_text("with 101 points").wait_for()
    assert plot.evaluate(PLOT_RANGE) == zoomed
    assert plot.evaluate("plot => plot === globalThis.kept")
    held(page, f"{float(slider.input_value()):g}")
    page.get_by_role("button", name="reset zoom").click()
    assert plot.evaluate(PLOT_RANGE) == [[0, 0.99], [0, 105]]


def test_keyboard_burst_is_one_release(page: Any, address: str) -> None:
    slider = opened(page, address)
    slider.focus()
    for key in ("ArrowLeft", "ArrowLeft", "PageUp"):
        slider.press(key)
    page.get_by_text("held 0.7 after 2 runs").wait_for()
    assert slider.get_attribute("aria-label") == "Share of weights removed"
    assert slider.get_attribute("aria-valuetext").startswith("p = 0.70: about score 9")
    slider.press("Home")
    held(page, "0")
    assert slider.get_attribute("aria-valuetext") == (
        "p = 0.00: score 97.9 %, size 100.0 %, latency 100.0 % of baseline"
    )


def test_touch_moves_the_handle(page: Any, address: str) -> None:
    slider = opened(page, address)
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.get_by_text("after 2 runs").wait_for()
    assert abs(float(slider.input_value()) - 0.25) < 0.02


def test_python_moves_the_handle_and_a_click_on_the_plot_does(page: Any, address: str) -> None:
    slider = opened(page, address)
    page.get_by_role("button", name="reset", exact=True).click()
    held(page, "0")
    page.wait_for_function("s => s.value === '0'", arg=slider.element_handle())
    box = page.locator(".dial .plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 5, box["y"] + 100)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100, steps=5)
    page.wait_for_timeout(200)  # Plotly takes a click for a click only where it hovers
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 100)
    page.wait_for_function("s => Math.abs(s.value - 0.48) < 0.03", arg=slider.element_handle())
    held(page, f"{float(slider.input_value()):g}")


@pytest.mark.parametrize("mode", ["full", "bits", "log", "present"])
def test_thumb_stands_under_the_marker(page: Any, address: str, mode: str) -> None:
    slider = opened(page, address, mode)
    slider.focus()
    for key in ("Home", "PageUp", "End"):
        slider.press(key)
        page.wait_for_timeout(100)
        marker, label = (page.locator(f".dial .{name}").bounding_box() for name in ("marker", "label"))
        assert abs(marker["x"] + marker["width"] / 2 - label["x"] - label["width"] / 2) < 1
        thumb = slider.evaluate(
            """s => {
              const box = s.getBoundingClientRect();
              const radius = 9 * getComputedStyle(s).getPropertyValue("--scale"); // as dial.css draws the thumb
              return box.left + radius + (s.value - s.min) / (s.max - s.min) * (box.width - 2 * radius);
            }"""
        )
        assert abs(marker["x"] + marker["width"] / 2 - thumb) < 1


def test_learn_hides_the_curves_until_the_first_release(page: Any, address: str) -> None:
    slider = opened(page, address, "learn")
    plot = page.locator(".dial .plot")
    assert plot.evaluate("plot => plot.data.length") == 0
    assert slider.get_attribute("aria-valuetext") == "p = 0.62"
    assert page.locator(".dial .question").is_visible()
    slider.press("ArrowRight")
    page.wait_for_function("plot => plot.data.length === 4", arg=plot.element_handle())
    assert not page.locator(".dial .question").is_visible()
    slider.press("End")
    page.locator(".dial .guess").wait_for()


def test_latency_above_the_baseline_gets_room(page: Any, address: str) -> None:
    opened(page, address, "slow")
    assert page.locator(".dial .plot").evaluate(PLOT_RANGE)[1] == [0, 160]


def test_noisy_timings_stand_off_the_line_with_a_bar(page: Any, address: str) -> None:
    slider = opened(page, address, "noisy")
    plot = page.locator(".dial .plot")
    found = plot.evaluate("plot => plot.data.map(t => [t.name, [...(t.x ?? [])], [...(t.y ?? [])], t.customdata])")
    traces = {name: (x, y, told) for name, x, y, told in found if name}
    x, y, told = traces["noisy latency"]
    line = traces["latency"][1]
    assert (told, len(x), line.count(None)) == ([104, 300], 2, 2)
    assert y == [104, 105], "what lies above the plot stands at its top"
    assert [line[traces["latency"][0].index(at)] for at in x] == [None, None]
    assert plot.evaluate(PLOT_RANGE)[1] == [0, 105], "two disturbed timings do not flatten the picture"
    assert plot.locator(".errorbar").count() == 2
    slider.press("Home")
    for _ in range(20):
        slider.press("ArrowRight")
    page.get_by_text("noisy timing").wait_for(timeout=10_000)
    assert "latency 104.0 % of baseline" in slider.get_attribute("aria-valuetext")
    slider.press("ArrowRight")  # between it and the next: where the line is, 100 − 77 · 0.21
    page.get_by_text("≈ between two points").wait_for(timeout=10_000)
    assert "latency 83.8 % of baseline" in slider.get_attribute("aria-valuetext")
    assert page.errors == []


def test_colours_follow_the_theme_without_a_reload(page: Any, address: str) -> None:
    opened(page, address)
    colour = "plot => plot.data.find(trace => trace.name === 'score').line.color"
    plot = page.locator(".dial .plot")
    assert plot.evaluate(colour) == "#2563eb"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"plot => ({colour})(plot) === '#60a5fa'", arg=plot.element_handle())


def test_without_plotly_the_slider_works_and_says_so(page: Any, address: str) -> None:
    page.route("**/plotly.min.js*", lambda route: route.abort())
    page.goto(f"{address}/?mode=full")
    page.get_by_text("The curve can't be drawn: plotly.min.js is not reachable. The slider works.").wait_for()
    page.locator(".dial input").press("ArrowRight")
    held(page, "0.63")


def test_messages_are_small_and_the_picture_has_words(page: Any, address: str) -> None:
    sizes: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: sizes.append(len(data))))
    slider = opened(page, address)
    slider.press("ArrowRight")
    held(page, "0.63")
    assert max(sizes) < MOST_BYTES
    assert page.get_by_role("img", name="Response curve of Share of weights removed, 101 points").count() == 1
