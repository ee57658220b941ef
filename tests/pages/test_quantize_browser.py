"""What only a browser can do on the page Quantize: drag over 16 bits and the grid, take the file along, watch a job."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import safetensors.torch
import torch

import modelopt_core as mo
from benchmarks.server import served
from modelopt_core.files import mopt
from tests.waiting import wait_until

pytestmark = pytest.mark.browser

PANEL = ".st-key-work-panel"
STOPS = 9  # 1 to 8 bits, and 16


@pytest.fixture(scope="module")
def address(root: Path, tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("quantize")
    with served("--no-browser", launcher=root / "pages" / "server" / "serve.py", MODELOPT_JOBS=str(folder)) as url:
        yield url


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page with a tab, once nothing is measured any more."""
    pages: list[Any] = []

    def open_tab(query: str, tab: str) -> Any:
        page = browser.new_page(viewport={"width": 1440, "height": 1200}, accept_downloads=True)
        pages.append(page)
        page.sent = []
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: page.sent.append(frame)))
        page.goto(f"{address}/quantize?model=mlp&{query}")
        page.wait_for_selector(".mo-cards")
        page.locator(".dial.busy").wait_for(state="detached")
        page.get_by_role("tab", name=tab).click()
        return page

    yield open_tab
    for page in pages:
        page.close()


def move(page: Any, stop: int) -> None:
    """The pointer, to the n-th stop of the Dial."""
    box = page.locator(".dial input[type=range]").bounding_box()
    thumb = 9  # px
    x = box["x"] + thumb + (box["width"] - 2 * thumb) * stop / (STOPS - 1)
    page.mouse.move(x, box["y"] + box["height"] / 2)


def quiet(page: Any) -> bool:
    """Does the page say nothing to Python for a while? A growing curve is asked for every half a second."""
    page.sent.clear()
    page.wait_for_timeout(4000)
    return not page.sent


def test_the_grid_follows_a_drag_to_16_bits(opened: Any) -> None:
    page = opened("bits=4", "Weights")
    said = page.locator(".weights .said")
    page.get_by_text("15 points a channel").wait_for()
    wait_until(lambda: quiet(page), "the curve to be whole, so that nobody asks for it any more", 120)
    page.sent.clear()
    before = page.locator(".weights canvas").screenshot()
    move(page, 3)
    page.mouse.down()
    for stop, points in ((4, "31"), (7, "255"), (8, "65,535"), (1, "3")):
        move(page, stop)
        page.get_by_text(f"{points} points a channel").wait_for()
        assert page.locator(".weights canvas").screenshot() != before
    assert not page.sent
    assert "bits=4" in page.url
    move(page, 8)
    page.mouse.up()
    page.wait_for_function("() => location.href.includes('bits=16')")
    page.get_by_text("no integer kernel for 16 bits").wait_for()
    assert page.sent
    assert "b = 16 bits" in said.inner_text()
    assert page.locator(".dial .label").inner_text() == "b = 16 bits"
    page.reload()
    page.get_by_role("tab", name="Weights").click()
    page.get_by_text("65,535 points a channel").wait_for()


def test_the_setting_as_a_file(opened: Any, tmp_path: Path) -> None:
    page = opened("bits=3", "File")
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    small = mo.Quantize(bits=3).apply(model, w)
    found = {}
    for kind in (".mopt", ".onnx", "-float.onnx", ".safetensors"):
        with page.expect_download() as download:
            page.get_by_role("button", name=kind.removeprefix("-"), exact=True).click()
        assert download.value.suggested_filename == f"mlp-quantize{kind}"
        download.value.save_as(tmp_path / kind)
        found[kind] = (tmp_path / kind).read_bytes()
    again = mopt.decode(found[".mopt"])
    assert again.note["recipe"][0] | {"step": "Quantize", "bits": 3} == again.note["recipe"][0]
    weights = safetensors.torch.load(found[".safetensors"])
    for name, tensor in small.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
        assert torch.equal(weights[name], tensor)
    session = onnxruntime.InferenceSession(io.BytesIO(found[".onnx"]).getvalue())
    logits = session.run(None, {"inputs": w.val.inputs[:8].numpy()})[0]
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits), small(w.val.inputs[:8]), rtol=1e-4, atol=1e-4)


def test_adaround_is_a_job_that_shows_how_far_it_is(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{address}/quantize?model=cnn&bits=2&rounding=adaround&examples=1024")
    page.get_by_text("Not measured", exact=True).wait_for()
    page.locator(".st-key-work-run button").click()
    seen: set[str] = set()

    def ended() -> bool:
        seen.update(page.locator(f"{PANEL} .bar").evaluate_all("bars => bars.map(bar => bar.dataset.share)"))
        return bool(page.locator(".mo-cards").count())

    wait_until(ended, "the job to end")
    assert len(seen) > 1, "the bar never moved"
    page.get_by_role("tab", name="Error").click()
    page.get_by_role("cell", name="fc1").first.wait_for()
    page.reload()
    page.wait_for_selector(".mo-cards")  # kept
    page.close()
