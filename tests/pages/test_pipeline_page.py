"""The page Pipeline: stages chosen and wired, models and switches per stage, damaged inputs, links, the Source tab."""

from __future__ import annotations

import json
import re
import types
from typing import Any

import pytest

import modelopt_core as mo
from pages.state import bench
from pages.state.setting import Setting
from pages.state.stack import Stack
from pages.tabs import source
from pages.work import trial
from tests.pages.test_pages import _quiet, card, lines, open_page

assert _quiet  # a fixture that every test here uses

MENDING = "quality,repair,groups,experts"
EXPERTS = ("groups", "expert-1", "expert-2", "expert-3")


@pytest.fixture(scope="module")
def here() -> bench.Bench:
    w = mo.workload("digits")
    return bench.Bench(w, "cnn", mo.baseline("digits", "cnn"), "onnx", "cpu", "tune")


def test_a_pipeline_is_held_against_the_bench_or_its_reader(here: bench.Bench) -> None:
    """A stage's own model answers another question; a reader that stands alone as well is a rival."""
    assert trial.origin(here, [Stack(name, ()) for name in EXPERTS]).model_name == "cnn"
    mlp = Stack("mlp", ())
    assert trial.origin(here, [Stack("quality", ()), Stack("repair", ()), mlp]) is mlp


@pytest.mark.parametrize("damaged", [False, True])
def test_the_source_tab_writes_a_program_that_runs(here: bench.Bench, damaged: bool) -> None:
    data = mo.damaged(here.workload) if damaged else here.workload
    there = bench.Bench(data, "mlp", mo.baseline("digits", "mlp"), "onnx", "cpu", "tune")
    tried = trial.measure(
        Setting(there, mo.Pipeline(threshold=0.75), members=tuple(Stack(name, ()) for name in EXPERTS))
    )
    assert tried.against == "mlp, float32"
    printed: list[Any] = []
    types.FunctionType(compile(source.python(tried), "page", "exec"), {"print": printed.append})()
    assert (printed[0].score, printed[0].size_bytes) == (tried.measurement.score, tried.measurement.size_bytes)
    assert ("use the program above" in source.command(tried)) == damaged


@pytest.mark.parametrize(
    "link",
    [
        {"stages": MENDING, "inputs": "half damaged", "threshold": "0.75", "suspicion": "0.4"},
        {"stages": "quality,repair,digit", "members": "quality,repair,mlp", "switches": "repair:oracle,digit:off"},
        {"workload": "docstrings", "threshold": "0.9", "members": "bag,expert-1,expert-2"},
    ],
)
def test_a_link_restores_everything(root: Any, link: dict[str, str]) -> None:
    app = open_page(root, "pipeline", **link)
    assert not app.exception
    assert lines(app) == []
    assert {name: app.query_params[name] for name in link} == link
    again = open_page(root, "pipeline", **{k: v for k, v in app.query_params.items() if isinstance(v, str)})
    assert again.query_params == app.query_params
    assert card(again) != ""


@pytest.mark.parametrize(
    ("link", "text"),
    [
        ({"stages": "groups,digit"}, "stage 'groups' gives sorted image, stage 'digit' takes image; choose one that"),
        ({"stages": "groups"}, "Link: Pipeline has one stage, 'groups'"),
        ({"switches": "groups:on"}, "Link: unknown switch of groups 'on'"),
        ({"switches": "group:off"}, r"Link: unknown stage 'group' \(did you mean 'groups'\?\)"),
        ({"inputs": "dirty"}, "Link: unknown inputs 'dirty'"),
        ({"members": "cnn,resnet"}, "Link: unknown digits model 'resnet'"),
    ],
)
def test_a_link_that_does_not_fit_is_told(root: Any, link: dict[str, str], text: str) -> None:
    app = open_page(root, "pipeline", **link)
    assert not app.exception
    assert any(re.search(text, line) for line in lines(app)), lines(app)


def test_a_workload_that_lacks_a_stage_gets_its_own_pipeline(root: Any) -> None:
    app = open_page(root, "pipeline", stages="quality,repair,digit", inputs="half damaged")
    app.selectbox("workload").set_value("docstrings").run()
    assert not app.exception
    assert lines(app) == []
    assert app.session_state["Pipeline.stages"] == ("groups", "experts")
    assert app.query_params["members"] == "groups,expert-1,expert-2"
    assert app.query_params["inputs"] == "inputs as they are"


def test_stages_models_switches_and_undo(root: Any) -> None:
    app = open_page(root, "pipeline")
    first = card(app)
    app.button("Pipeline.chain.1").click().run()
    assert app.session_state["Pipeline.stages"] == ("quality", "repair", "digit")
    assert app.query_params["inputs"] == "half damaged", "what the stages are made for"
    assert "damaged (simulated)" in " ".join(h.value for h in app.html)
    app.button("undo").click().run()
    assert card(app) == first
    app.selectbox("Pipeline.model.0").set_value('[{"on":"groups","steps":[{"step":"Quantize","bits":4}]}]').run()
    assert json.loads(app.query_params["members"])[0] == {"on": "groups", "steps": [{"step": "Quantize", "bits": 4}]}
    assert card(app) != first
    app.segmented_control("Pipeline.switch.groups").set_value("oracle").run()
    assert app.query_params["switches"] == "groups:oracle"
    assert any("simulated: an oracle knows the truth" in h.value for h in app.html)
    app.segmented_control("Pipeline.switch.groups").set_value("model").run()
    assert "switches" not in app.query_params
    app.multiselect[0].set_value(["groups"]).run()
    assert any("Pipeline has one stage, 'groups'" in line for line in lines(app))
    app.button("Pipeline.chain.2").click().run()
    app.segmented_control("Pipeline.switch.groups").set_value("off").run()
    app.button("reset").click().run()
    assert not app.exception
    assert app.session_state["Pipeline.members"] == ",".join(EXPERTS)
    assert "switches" not in app.query_params
    assert app.query_params["inputs"] == "inputs as they are"


@pytest.mark.parametrize("link", [{}, {"stages": MENDING, "inputs": "half damaged", "switches": "groups:off"}])
def test_every_tab_draws(root: Any, link: dict[str, str]) -> None:
    app = open_page(root, "pipeline", **link)
    found = [tab.label for tab in app.tabs]
    assert found == ["Stages", "Errors", "Lost", "Examples", "Source", "Numbers"]
    for label in [*found, *found]:
        app.session_state["tabs-Pipeline-tune"] = label
        app.run()
        assert not app.exception, label
        assert lines(app) == []


def test_lost_examples_by_stage(root: Any) -> None:
    app = open_page(root, "pipeline", stages=MENDING, inputs="half damaged")
    app.session_state["tabs-Pipeline-tune"] = "Lost"
    app.run()

    def told() -> int:
        return int(re.search(r"<b>(\d+) examples", " ".join(h.value for h in app.html)).group(1))  # type: ignore[union-attr]

    every, stages = told(), []
    for name in MENDING.split(","):
        app.segmented_control("Pipeline.lost").set_value(name).run()
        stages.append(told())
    assert sum(stages) == every > 0
    app.segmented_control("Pipeline.lost").set_value("every stage").run()
    app.toggle("Pipeline.recovered").set_value(True).run()
    assert not app.exception
    assert told() != every


def test_only_fields_that_matter_are_shown(root: Any) -> None:
    """Suspicion: nowhere without a judge, on the Dial with a judge alone, behind More beside a route."""
    for link, shown in (({}, False), ({"stages": "quality,repair,digit"}, False), ({"stages": MENDING}, True)):
        app = open_page(root, "pipeline", **link)
        assert not app.exception
        assert ("Pipeline.suspicion" in {box.key for box in app.number_input}) == shown


@pytest.mark.mnist
def test_a_detector_and_what_it_cut_out(root: Any) -> None:
    app = open_page(root, "pipeline", workload="mnist", stages="locate,digit", inputs="scattered")
    app.session_state["tabs-Pipeline-tune"] = "Lost"
    app.run()
    assert not app.exception
    assert app.query_params["members"] == "locate,article"
    text = " ".join(h.value for h in app.html)
    assert "MNIST, scattered (simulated)" in text
    assert "No stage sorts or judges here" in text
    cell = next(h.value for h in app.html if 'class="mo-seen"' in h.value)
    assert 'class="mo-found"' in cell
    assert 'class="mo-true"' in cell
    assert "what the last stage was given of example" in cell
