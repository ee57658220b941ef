"""The page Prune as a script: its own tabs, a ratio per layer in link and history, and the article's example."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import modelopt_core as mo
from modelopt_core.errors import DataMissing
from modelopt_core.steps.prune import Unit
from pages.pruning import article, criteria, ratios, recovery
from tests.pages.test_pages import _quiet, card, lines, open_page  # noqa: F401  the fixture works by being here
from tests.waiting import wait_until

KEYS = ratios.KEYS


def open_tab(root: Any, tab: str, **url: str) -> AppTest:
    """The page with one tab open."""
    app = open_page(root, "prune", **url)
    app.session_state["tabs-Prune-tune"] = tab
    app.run()
    assert not app.exception
    return app


def measured(app: AppTest) -> AppTest:
    """Once the background has measured all that the open tab asked for."""
    # Drawn again without a break: what is at hand holds up nobody, the background goes on.
    wait_until(lambda: not app.get("progress") or not app.run().get("progress"), "the open tab", every_s=0)
    assert not app.exception
    assert lines(app) == []
    return app


def html(app: AppTest) -> str:
    return "".join(h.value for h in app.html)


def table(app: AppTest) -> Any:
    """The table of ratios as it is sent to the browser."""
    (found,) = app.data_editor
    return found.value.set_index("layer")


def test_ratios_live_in_the_link_the_table_and_the_history(root: Any) -> None:
    app = open_page(root, "prune", ratios="conv1:0.5,fc1:0.1", frozen="conv2", ratio="0.3")
    assert lines(app) == []
    assert (app.query_params["ratios"], app.query_params["frozen"]) == ("conv1:0.5,fc1:0.1", "conv2")
    shown = table(app)
    assert shown["ratio"].dropna().to_dict() == {"conv1": 0.5, "fc1": 0.1}
    assert shown["frozen"].to_dict() == {"conv1": False, "conv2": True, "fc1": False}
    expected = mo.Prune(ratio=0.3, ratios={"conv1": 0.5, "fc1": 0.1}, frozen=("conv2",))
    assert app.session_state["runs"][-1].step == expected
    first = card(app)
    assert "the Dial moves nothing" in html(app)
    app.session_state[KEYS["ratios"]] = ()
    app.run()
    assert card(app) != first
    assert "the Dial moves nothing" not in html(app)
    assert "ratios" not in app.query_params
    assert table(app)["ratio"].isna().all()
    app.button("undo").click().run()
    assert card(app) == first
    assert table(app)["ratio"].dropna().to_dict() == {"conv1": 0.5, "fc1": 0.1}
    app.button("reset").click().run()
    assert (app.session_state[KEYS["ratios"]], app.session_state[KEYS["frozen"]]) == ((), ())


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"ratios": "nope:0.5"}, "Unknown layer 'nope'; choose from conv1, conv2, fc1, fc2"),
        ({"frozen": "<script>"}, r"Unknown layer '\<script\>'"),
        ({"ratios": "fc2:0.5"}, "Channels of fc2 can't be cut: it is the model's output"),
        ({"ratios": "conv1"}, "Link: ratios='conv1' is no pair"),
        ({"ratios": "conv1:7"}, "Link: Prune: ratio 7 of conv1 is not allowed"),
    ],
)
def test_a_hostile_ratio_is_one_line_and_left_out(root: Any, link: dict[str, str], said: str) -> None:
    app = open_page(root, "prune", **link)
    assert not app.exception
    (line,) = lines(app)
    assert line.startswith(said)
    assert "mo-score" in card(app)
    assert not {"ratios", "frozen"} & set(app.query_params)


def test_another_model_drops_the_layers_that_it_lacks(root: Any) -> None:
    app = open_page(root, "prune", ratios="conv1:0.5,fc1:0.2")
    app.session_state["model"] = "mlp"
    app.run()
    assert not app.exception
    assert ["Unknown layer 'conv1'" in line for line in lines(app)] == [True]
    assert app.query_params["ratios"] == "fc1:0.2"


def test_the_strip_shows_three_points_in_every_view(root: Any) -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    raw, norms = (mo.measure(mo.Prune(ratio=0.4, recovery=r).apply(model, w), w) for r in ("none", "norms"))  # type: ignore[arg-type]
    for view in ("tune", "present"):
        said = html(open_page(root, "prune", ratio="0.4", view=view))
        strip = said[said.index("After removing") :]
        assert f"raw <b>{100 * raw.score.value:.1f}" in strip
        assert f'class="mo-chosen">norms re-estimated <b>{100 * norms.score.value:.1f}' in strip
        assert "not measured" in strip
    assert "no batch norm here" in html(open_page(root, "prune", model="mlp"))
    assert "After removing" not in html(open_page(root, "prune", view="learn"))


def test_the_strip_looks_again_while_a_job_is_at_the_last_point(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "busy", lambda *_: True)
    app = open_page(root, "prune", model="mlp")
    assert "a job is at it" in html(app)
    monkeypatch.setattr(recovery, "busy", lambda *_: False)  # it has been stopped
    app.run()
    assert "not measured" in html(app)
    assert "a job is at it" not in html(app)


def test_a_criterion_without_its_norm_is_one_line(root: Any) -> None:
    app = open_page(root, "prune", model="mlp", criterion="bn_scale")
    assert not app.exception
    (line,) = [w.value for w in app.warning]
    assert "'bn_scale' needs batch norm" in line
    assert "choose from l1" in line


def test_fine_tune_is_offered_and_starts_nothing(root: Any) -> None:
    app = open_page(root, "prune")
    app.button("fine-tune").click().run()
    assert not app.exception
    assert app.session_state[KEYS["recovery"]] == "fine-tuned"
    assert app.button("work-run").label == "Run"
    assert table(app).index.tolist() == ["conv1", "conv2", "fc1"]  # ratios can be set before anything is run
    app.button("undo").click().run()
    assert app.session_state[KEYS["recovery"]] == "norms"


def test_the_contest_is_drawn_with_its_sentence(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "entrants", lambda *_: ["l1", "l2", "random", "hebbian"])
    monkeypatch.setattr(sys.modules[criteria.Cell.__module__], "RATIOS", (0.5, 0.8))
    app = measured(open_tab(root, "Criteria", model="mlp", granularity="weight", criterion="l2"))
    said = html(app)
    assert "Where hebbian wins and loses" in said
    assert "the same 360 examples" in said
    assert "lowest to highest of 5 seeds" in said
    assert "of 6 comparisons" in said
    assert "<b>l2</b>" in said
    assert len(app.get("plotly_chart")) == 1


def test_a_predicted_drop_is_that_of_a_real_prune(root: Any) -> None:
    """Click on a cell with the Dial at zero: the card says what the table said."""
    app = measured(open_tab(root, "Sensitivity", model="mlp", ratio="0", granularity="channel"))
    found = app.dataframe[0].value.set_index("layer")
    assert found.index.tolist() == ["fc1", "fc2"]
    predicted = found.loc["fc2", "0.7"]
    app.session_state["model"] = "mlp"
    app.session_state[KEYS["ratios"]] = (("fc2", 0.7),)
    app.run()
    delta = (
        app.session_state["runs"][-1].measurement.score.value
        - mo.measure(mo.baseline("digits", "mlp"), mo.workload("digits")).score.value
    )
    assert predicted == pytest.approx(100 * delta)


def test_requested_against_actual(root: Any) -> None:
    app = measured(open_tab(root, "Removed", ratio="0.3"))
    said = html(app)
    assert "requested" in said
    assert "51.0" in said  # 1 − 0.7²
    (chart,) = app.get("plotly_chart")
    assert "theoretical" in str(chart.proto)


@pytest.mark.mnist
def test_the_articles_example_in_one_click(root: Any) -> None:
    app = open_tab(root, "Article")
    app.button("article").click().run()
    assert not app.exception
    assert lines(app) == []
    shown = {name: app.query_params[name] for name in ("workload", "model", "granularity", "ratio", "frozen")}
    assert shown == {"workload": "mnist", "model": "article", "granularity": "weight", "ratio": "0.5",
                     "frozen": "conv2,fc"}  # fmt: skip
    assert app.session_state["runs"][-1].measurement.nonzero == mo.measure(
        mo.baseline("mnist", "article"), mo.workload("mnist")
    ).nonzero - 250  # fmt: skip


def test_without_mnist_the_example_is_grey_and_says_why(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise DataMissing("MNIST is not here; run `modelopt fetch mnist`")

    monkeypatch.setattr(article, "load_workload", absent)
    app = open_tab(root, "Article")
    assert app.button("article").disabled
    assert any("modelopt fetch mnist" in c.value for c in app.caption)


def test_edits_of_a_table_that_is_gone_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an undo the browser may send them once more before it knows."""
    unit = Unit("conv1", ("conv1",), 16)
    state: dict[str, Any] = {
        ratios.EDITOR: (("conv1",), ratios.Own(), 2),
        f"{ratios.EDITOR}.1": {"edited_rows": {0: {"ratio": 0.5}}},
        f"{ratios.EDITOR}.2": {"edited_rows": {0: {"ratio": 0.7}}},
        **{key: mo.Prune.model_fields[name].default for name, key in KEYS.items()},
    }
    monkeypatch.setattr(ratios.st, "session_state", state)
    monkeypatch.setattr(ratios.st, "rerun", lambda: None)
    ratios._edited(f"{ratios.EDITOR}.1", [unit], ratios.Own())
    assert state[KEYS["ratios"]] == ()
    ratios._edited(f"{ratios.EDITOR}.2", [unit], ratios.Own())
    assert state[KEYS["ratios"]] == (("conv1", 0.7),)
