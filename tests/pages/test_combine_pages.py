"""The pages Ensemble and Cascade: weights on the simplex, members from the bench, thresholds taken over, links."""

from __future__ import annotations

import json
import re
import types
from typing import Any

import pytest

import modelopt_core as mo
from pages.combining import stages, weights
from pages.combining.weights import shared_out
from pages.state import bench, stack
from pages.state.knob import of_field
from pages.state.setting import Setting
from pages.state.stack import Stack
from pages.tabs import source
from pages.work import trial
from tests.pages.test_pages import _quiet, card, lines, open_page

assert _quiet  # a fixture that every test here uses


@pytest.fixture(scope="module")
def here() -> bench.Bench:
    w = mo.workload("digits")
    return bench.Bench(w, "cnn", mo.baseline("digits", "cnn"), "onnx", "cpu", "tune")


def test_weights_are_shared_out_by_hand() -> None:
    assert shared_out((0.5, 0.3, 0.2), 0, 0.8) == pytest.approx((0.8, 0.12, 0.08))
    assert shared_out((0.5, 0.3, 0.2), 0, 0.9, frozenset({1})) == pytest.approx((0.7, 0.3, 0.0))
    assert shared_out((0.5, 0.3, 0.2), 0, 0.1, frozenset({1, 2})) == (0.5, 0.3, 0.2)
    assert shared_out((0.5, 0.3, 0.2), 1, 0.9, frozenset({1})) == (0.5, 0.3, 0.2)
    assert shared_out((1.0, 0.0, 0.0), 0, 0.5) == pytest.approx((0.5, 0.25, 0.25))
    assert shared_out((1.0,), 0, 0.5) == (1.0,)


def test_a_widget_that_says_what_is_held_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser may repeat a tab's widgets just after another tab was opened: no threshold is set, no weight."""
    state = {"key": 0.9, "slider": 0.33, weights.WEIGHTS: (), weights.LOCKED: frozenset()}
    monkeypatch.setattr(stages.st, "session_state", state)
    monkeypatch.setattr(stages.st, "rerun", lambda: None)
    before = dict(state)
    stages._moved(1, "key", (0.8, 0.9))
    weights._moved(0, "slider", 3)
    assert state == before
    stages._moved(0, "key", (0.8, 0.9))
    weights._moved(0, "slider", 2)
    assert (state[stages.THRESHOLDS], state[weights.WEIGHTS]) == ((0.9, 0.9), (0.33, 0.67))


def test_names_of_members() -> None:
    members = [Stack("cnn", ()), Stack("cnn", ()), Stack("mlp", (mo.Prune(ratio=0.4),)), Stack("cnn", ())]
    assert stack.names(members) == ["cnn", "cnn (2)", "mlp · Prune 0.4", "cnn (3)"]


def test_what_a_result_is_held_against(here: bench.Bench) -> None:
    """The best member; of members with one score the cheaper."""
    assert trial.origin(here).model_name == "cnn"
    assert trial.origin(here, (Stack("mlp", ()), Stack("cnn", ()))).model_name == "cnn"
    slim = Stack("cnn", (mo.Prune(ratio=0.05),))
    both = (Stack("cnn", ()), slim)
    scores = [trial.start(here, (member,)).score.value for member in both]
    assert trial.origin(here, both) is (slim if scores[1] >= scores[0] else both[0])


def test_the_source_tab_writes_a_program_that_runs(here: bench.Bench) -> None:
    members = (Stack("cnn", ()), Stack("mlp", (mo.Quantize(bits=4),)))
    tried = trial.measure(Setting(here, mo.Ensemble(weights=(0.7, 0.3)), members=members))
    printed: list[Any] = []
    types.FunctionType(compile(source.python(tried), "page", "exec"), {"print": printed.append})()
    assert (printed[0].score, printed[0].size_bytes) == (tried.measurement.score, tried.measurement.size_bytes)
    assert "use the program above" in source.command(tried)
    plain = Setting(here, mo.Ensemble(), members=(Stack("cnn", ()), Stack("mlp", ())))
    assert source.command(plain).endswith("--model cnn --model mlp")


def test_the_curve_of_a_pool(here: bench.Bench) -> None:
    step, members = mo.Cascade(threshold=0.5), (Stack("mlp", ()), Stack("cnn", ()))
    found = trial.sweep(Setting(here, step, members=members), of_field(step, "threshold"))
    assert found.total > 20
    assert of_field(step, "threshold").at(0.25) == mo.Cascade(threshold=0.25)


@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("ensemble", {"weights": "0.25,0.75", "dial": "2", "rule": "borda", "members": "mlp,cnn"}),
        ("cascade", {"threshold": "0.75", "thresholds": "0.625", "confidence": "margin", "calibrate": "True"}),
        ("cascade", {"threshold": "0.75", "stages": "exits", "exits": "conv1", "thresholds": "0.5"}),
    ],
)
def test_a_link_restores_everything(root: Any, page: str, link: dict[str, str]) -> None:
    app = open_page(root, page, workload="digits", **link)
    assert not app.exception
    assert lines(app) == []
    assert {name: app.query_params[name] for name in link} == link
    again = open_page(root, page, **{k: v for k, v in app.query_params.items() if isinstance(v, str)})
    assert again.query_params == app.query_params
    assert card(again) != ""


def test_a_variant_is_a_member(root: Any) -> None:
    """A link to an ensemble of a baseline and a pruned, quantized one; the other page's release is on offer too."""
    steps = [{"step": "Prune", "ratio": 0.25}, {"step": "Quantize", "bits": 6}]
    text = json.dumps(["cnn", {"on": "mlp", "steps": steps}], separators=(",", ":"))
    app = open_page(root, "ensemble", members=text)
    assert not app.exception
    assert lines(app) == []
    assert app.query_params["members"] == text
    assert "mlp · Prune 0.25 · Quantize 6" in app.multiselect[0].options
    app.switch_page("pages/prune.py").run()
    app.switch_page("pages/ensemble.py").run()
    assert "cnn · Prune 0.3" in app.multiselect[0].options
    assert app.query_params["members"] == text


def test_a_student_and_an_ensemble_are_members(root: Any) -> None:
    """What a job made, or came with the project, and what another page has joined."""
    student = {"on": "cnn", "steps": [{"step": "Distill"}]}
    text = json.dumps(["mlp", student], separators=(",", ":"))
    app = open_page(root, "ensemble", members=text)
    assert lines(app) == []
    assert app.query_params["members"] == text
    app.switch_page("pages/cascade.py").run()
    assert "Ensemble of mlp + cnn · Distill 4.0" in app.multiselect[0].options
    joint = {"of": ["mlp", student], "steps": [{"step": "Ensemble"}]}
    app = open_page(root, "cascade", members=json.dumps(["mlp", joint]))
    assert not app.exception
    assert lines(app) == []
    assert card(app) != ""


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ("cnn,resnet", "unknown digits model 'resnet'"),
        ("cnn", "a pool of 1 member is too small; at least 2 are needed"),
        ("[1", r"members is not JSON \(line 1, column 3: Expecting ',' delimiter\); write members=cnn,mlp"),
        (
            '["cnn",{"on":"cnn","steps":[{"step":"Finetune"}]}]',
            "Finetune is not measured with this setting; run it on its page first",
        ),
        (",".join(["cnn"] * 9), "a pool of 9 members is too large; at most 8 are allowed"),
        ("[[],{}]", "unknown digits model|recipe"),
    ],
)
def test_a_link_to_no_pool_is_told(root: Any, members: str, text: str) -> None:
    app = open_page(root, "ensemble", members=members)
    assert not app.exception
    assert any(re.search(text, line) for line in lines(app)), lines(app)
    assert app.query_params["members"] == "cnn,mlp"


def test_members_are_chosen_and_weights_follow(root: Any) -> None:
    app = open_page(root, "ensemble", weights="0.25,0.75")
    app.multiselect[0].set_value(["mlp"]).run()
    assert any("At least 2 models make a pool" in line for line in lines(app))
    assert app.query_params["members"] == "cnn,mlp"
    app.multiselect[0].set_value(["mlp", "cnn"]).run()
    assert not app.exception
    assert app.query_params["members"] == "mlp,cnn"


def test_sliders_lock_equal_and_solved(root: Any) -> None:
    app = open_page(root, "ensemble")
    app.slider("Ensemble.weight.0").set_value(0.8).run()
    assert app.session_state["Ensemble.weights"] == pytest.approx((0.8, 0.2))
    app.button("Ensemble.lock.1").click().run()
    app.slider("Ensemble.weight.0").set_value(0.1).run()
    assert app.session_state["Ensemble.weights"] == pytest.approx((0.8, 0.2))
    app.button("Ensemble.use.solved").click().run()
    assert sum(app.session_state["Ensemble.weights"]) == pytest.approx(1)
    app.button("Ensemble.equal").click().run()
    assert app.session_state["Ensemble.weights"] == ()
    app.button("Ensemble.turn.1").click().run()
    assert app.query_params["dial"] == "2"
    app.button("undo").click().run()
    app.button("reset").click().run()
    assert not app.exception
    assert lines(app) == []


@pytest.mark.parametrize("calibrate", ["False", "True"])
def test_exits_of_one_network_are_stages(root: Any, calibrate: str) -> None:
    app = open_page(root, "cascade", stages="exits", calibrate=calibrate)
    for label in ["Stages", "Cost", "Early and wrong"]:
        app.session_state["tabs-Cascade-tune"] = label
        app.run()
        assert not app.exception, label
        assert lines(app) == []
    app.session_state["tabs-Cascade-tune"] = "Cost"
    app.run()
    app.button("Cascade.take").click().run()
    assert len(app.session_state["Cascade.thresholds"]) == 2
    app.session_state["Cascade.stages"] = "models"
    app.run()
    assert not app.exception
    assert app.session_state["Cascade.thresholds"] == ()


def test_exits_are_chosen_and_trained_by_a_job(root: Any) -> None:
    app = open_page(root, "cascade", stages="exits", thresholds="0.5,0.6")
    exits = app.multiselect("Cascade.exits.select")
    assert exits.options == ["inputs", "conv1", "conv2"]
    exits.set_value(["conv1"]).run()
    assert app.query_params["exits"] == "conv1"
    assert "thresholds" not in app.query_params
    assert [n.label for n in app.number_input if n.label in ("Epochs", "Head")] == ["Epochs"]
    app.number_input("Cascade.epochs").set_value(2).run()
    assert "Head" in [n.label for n in app.number_input]
    assert "Run" in [button.label for button in app.button], "no page trains"
    assert not app.exception
    assert lines(app) == []


@pytest.mark.mnist
def test_a_network_without_exits_says_so(root: Any) -> None:
    app = open_page(root, "cascade", workload="mnist", stages="exits", members="lenet300,mlp30")
    assert not app.exception
    assert ["Sequential has no place for an early exit" in line for line in lines(app)] == [True]


@pytest.mark.parametrize(("page", "tabs"), [("ensemble", 8), ("cascade", 6)])
def test_every_tab_draws(root: Any, page: str, tabs: int) -> None:
    app = open_page(root, page)
    found = [tab.label for tab in app.tabs]
    assert len(found) == tabs
    for label in [*found, *found]:
        app.session_state[f"tabs-{page.capitalize()}-tune"] = label
        app.run()
        assert not app.exception, label
        assert lines(app) == []


def test_found_thresholds_are_taken_over(root: Any) -> None:
    app = open_page(root, "cascade")
    app.session_state["tabs-Cascade-tune"] = "Cost"
    app.run()
    app.button("Cascade.take").click().run()
    assert not app.exception
    assert len(app.session_state["Cascade.thresholds"]) == 1
    app.session_state["tabs-Cascade-tune"] = "Stages"
    app.run()
    app.button("Cascade.follow").click().run()
    assert app.session_state["Cascade.thresholds"] == ()
