"""The page Quantize as a script: its own tabs for grids, codebooks and layers that keep their floats."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import modelopt_core as mo
from pages.draw import units
from tests.pages.test_pages import _quiet, lines, open_page  # noqa: F401  the fixture works by being here
from tests.pages.test_prune_page import html
from tests.waiting import wait_until


def open_tab(root: Any, tab: str, **url: str) -> Any:
    """The page with one tab open, drawn twice."""
    app = open_page(root, "quantize", **url)
    for _ in range(2):
        app.session_state["tabs-Quantize-tune"] = tab
        app.run()
        assert not app.exception
    return app


@pytest.mark.parametrize("tab", ["Bits", "Weights", "Error", "File", "Check", "Article"])
@pytest.mark.parametrize(
    "url",
    [
        {"bits": "3"},
        {"scheme": "codebook"},
        {"per": "group", "model": "mlp"},
        {"layer_bits": "fc1:32,fc2:2", "model": "mlp"},
    ],
    ids=str,
)
def test_every_tab_draws(root: Any, tab: str, url: dict[str, str]) -> None:
    app = open_tab(root, tab, **url)
    assert lines(app) == []


def test_the_check_says_what_ran(root: Any) -> None:
    text = html(open_tab(root, "Check", bits="8", model="mlp"))
    w = mo.workload("digits")
    found = mo.agreement(mo.Quantize(bits=8).apply(mo.baseline("digits", "mlp"), w), w)
    assert "ONNX Runtime int8: its own integer arithmetic" in text
    assert f"{100 * found.share.value:.1f}" in text
    assert "nothing is proved for integers" in html(open_tab(root, "Check", bits="3", model="mlp"))


def test_errors_are_the_cores(root: Any) -> None:
    from modelopt_core.steps.quantize.inspect import layer_errors

    text = html(open_tab(root, "Error", bits="3", model="mlp"))
    model = mo.baseline("digits", "mlp")
    for row in layer_errors(model, mo.Quantize(bits=3).apply(model, mo.workload("digits"))):
        assert f"<td>{row.layer}</td>" in text
        assert f"{row.snr_db:.1f}\N{NO-BREAK SPACE}dB" in text


def test_the_articles_example_is_one_click(root: Any) -> None:
    app = open_tab(root, "Article")
    next(b for b in app.button if b.label == "Set the article's example").click()
    app.run()
    assert not app.exception
    assert any("q runs from -0.5 to 255.5" in caption.value for caption in app.caption)


def test_bits_of_a_layer_by_hand_and_in_the_link(root: Any) -> None:
    app = open_page(root, "quantize", model="mlp", bits="4", layer_bits="fc1:2,fc9:3")
    assert any("Unknown layer 'fc9'; choose from fc1, fc2, fc3. It is left out." in line for line in lines(app))
    app.session_state["tabs-Quantize-tune"] = "Bits"
    app.run()
    boxes = {box.label: box for box in app.selectbox}
    assert (boxes["fc1"].value, boxes["fc2"].value) == (2, 0)
    boxes["fc2"].set_value(8)
    app.run()
    assert not app.exception
    assert app.session_state["Quantize.layer_bits"] == (("fc1", 2), ("fc2", 8))
    assert app.query_params["layer_bits"] == "fc1:2,fc2:8"


def solved(app: AppTest) -> None:
    """Wait for every layer at every width, in the background."""
    wait_until(lambda: app.run().session_state["Quantize.layer_bits"], "bits for every layer", every_s=0.05)


def test_bits_are_solved_for_a_budget(root: Any) -> None:
    app = open_tab(root, "Bits", model="mlp")
    app.session_state["Quantize budget"] = 4000
    next(b for b in app.button if b.label == "Solve").click()
    solved(app)
    assert not app.exception
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    assert (
        app.session_state["Quantize.layer_bits"] == mo.allocate(model, w, mo.Quantize(), budget_bytes=4000).layer_bits
    )
    app.run()
    found, text = list(mo.widths(model, w, mo.Quantize())), html(app)
    for layer in ("fc1", "fc2", "fc3"):
        cells = "".join(
            f"<td class=mo-number>{units.points(width.delta.value)}</td>" for width in found if width.layer == layer
        )
        assert f"<tr><td>{layer}</td>{cells}</tr>" in text


def test_bits_are_solved_for_a_tolerated_drop(root: Any) -> None:
    app = open_tab(root, "Bits", model="mlp")
    next(c for c in app.segmented_control if c.label == "Limit").set_value("points of score")
    app.run()
    app.session_state["Quantize tolerated"] = 5.0
    next(b for b in app.button if b.label == "Solve").click()
    solved(app)
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    assert (
        app.session_state["Quantize.layer_bits"] == mo.allocate(model, w, mo.Quantize(), tolerated_drop=0.05).layer_bits
    )


def test_what_the_dial_has_no_stop_for_falls_back_and_says_so(root: Any) -> None:
    app = open_page(root, "quantize", model="mlp", bits="12")
    assert any("bits=12 is not allowed" in line and "Using the default" in line for line in lines(app))
    assert app.session_state["Quantize.bits"] == 8


def test_one_bit_for_activations_is_no_choice(root: Any) -> None:
    app = open_page(root, "quantize", model="mlp", activations="1")
    assert any("activations=1 is not allowed; choose 2 to 8 bits" in line for line in lines(app))
    box = next(box for box in app.selectbox if box.label == "Activations")
    assert (box.value, box.options) == (0, ["the runtime's", *map(str, range(2, 9))])


def test_many_examples_are_a_job(root: Any) -> None:
    """What would take over a second is not done while the page is drawn."""
    app = open_tab(root, "Weights", model="mlp", rounding="gptq", examples="1024")
    assert "Not measured" in html(app)
    assert any("Shown when this setting has been run" in caption.value for caption in app.caption)
