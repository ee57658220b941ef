"""The page Distill as a script: what ships is at hand, what is not waits for a job, its tabs, hostile links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from streamlit.testing.v1 import AppTest

import modelopt_core as mo
from modelopt_core.files import mopt
from modelopt_core.models import identity
from modelopt_core.studies import jobs, shipped_curves
from modelopt_core.studies.jobs import journal
from modelopt_core.studies.jobs import plan as plans
from modelopt_core.studies.jobs.plan import recipe
from pages.distilling import beside
from pages.draw import units
from pages.draw.dial import band
from pages.state import bench, controls, owner
from pages.state.setting import Setting
from tests.pages.test_pages import _quiet, card, lines, open_page  # noqa: F401  the fixture works by being here

KEYS = controls.keys(mo.Distill)


def open_tab(root: Any, tab: str, **url: str) -> AppTest:
    """The page with one tab open."""
    app = open_page(root, "distill", **url)
    app.session_state["tabs-Distill-tune"] = tab
    app.run()
    assert not app.exception
    return app


def html(app: AppTest) -> str:
    return "".join(h.value for h in app.html)


def test_the_default_is_at_hand_and_says_where_its_curve_comes_from(root: Any) -> None:
    app = open_page(root, "distill")
    assert lines(app) == []
    assert "mo-score" in card(app)
    assert "The curve came with the project" in html(app)
    app.run()
    assert not app.exception


def test_what_nobody_measured_waits_for_run(root: Any) -> None:
    app = open_page(root, "distill", width="0.35")
    assert "Not measured" in html(app)
    assert "The curve came with the project" not in html(app)
    assert [b.label for b in app.button if b.key == "work-run"] == ["Run"]


def test_training_tells_what_the_teacher_was_worth(root: Any) -> None:
    app = open_tab(root, "Training")
    gap = mo.gap(mo.Distill(), mo.baseline("digits", "cnn"), mo.workload("digits"), seeds=1)
    said = html(app)
    assert gap.share is None, "not clearly better than the student alone: no share"
    assert f"The teacher is worth {units.points(gap.gain.value)} ({units.points(gap.gain.low)} to" in said
    assert "there is no gap to take a share of" in said
    for value in (gap.teacher, gap.alone[0], gap.distilled[0]):
        assert units.percent(value) in said


def test_training_begins_one_job_for_both_students(root: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path))
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    app = open_tab(root, "Training", student="mlp")
    app.get_by_key("distill-seeds").set_value(3).run()
    app.button("distill-both").click().run()
    [path] = tmp_path.glob("*/job.json")
    plan = jobs.Job(path.parent).plan
    step = mo.Distill(student="mlp")
    assert plan.pair is not None
    assert (plan.recipe, plan.pair.against) == (recipe((step,)), recipe((step.alone,)))
    assert plan.pair.seeds == (0, 1, 2)


def test_run_brings_the_student_without_a_teacher_unless_it_is_at_hand(
    root: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path))
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    for url, pairs in (
        ({"width": "0.35"}, True),
        ({"temperature": "4.5"}, False),
        ({"width": "0.3", "alpha": "0"}, False),
    ):
        known = set(tmp_path.glob("*/job.json"))
        open_page(root, "distill", **url).button("work-run").click().run()
        [path] = set(tmp_path.glob("*/job.json")) - known
        assert (jobs.Job(path.parent).plan.pair is not None) == pairs


def test_curves_of_several_seeds_are_a_band(root: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it runs, and nothing of it while Learn waits for a guess."""
    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path))
    monkeypatch.setattr(owner, "token", lambda: "ann")
    step = mo.Distill(width=0.35)
    pair = {"against": recipe((step.alone,)), "seeds": (0, 1)}
    plan = plans.make(owner=plans.hashed("ann"), created_s=0.0, recipe=recipe((step,)), models=("cnn",),
                      workload="digits", pair=pair)  # fmt: skip
    path = tmp_path / ("0" * 32)
    path.mkdir()
    (path / plans.FILE).write_text(plan.model_dump_json())
    said: list[dict[str, object]] = [{"kind": "state", "state": "running"}]
    for seed, score in ((0, 0.5), (1, 0.75)):
        for name in ("score", "score alone"):
            values = {"epoch": 1, "seed": seed, name: score, "examples_per_s": 1234}
            said.append({"kind": "progress", "phase": "train", "step": 1, "total": 40, "values": values})
    for event in said:
        journal.append(path / jobs.EVENTS, {"time_s": 1.0, **event})
    with FileLock(path / jobs.LOCK):
        app = open_tab(root, "Training", width="0.35")
        texts = html(app) + " ".join(c.value for c in app.caption)
        assert "1,234 examples per second" in texts
        assert "Curves are shown" not in texts
        learn = open_page(root, "distill", width="0.35", view="learn")
        assert "Running" in html(learn)
        assert "Curves are shown" not in html(learn)


def test_softened_draws_for_any_setting(root: Any) -> None:
    for url in ({}, {"width": "0.35"}, {"loss": "hint"}, {"workload": "docstrings", "model": "bag"}):
        app = open_tab(root, "Softened", **url)
        assert lines(app) == []
        app.selectbox("softened-class").select_index(2).run()
        assert not app.exception


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"alpha": "2"}, "alpha=2 is not allowed; alpha must be a number ≥ 0 and ≤ 1"),
        ({"temperature": "0"}, "temperature=0 is not allowed"),
        ({"temperature": "500"}, "temperature=500 is outside the dial, which goes from 1 to 20"),
        ({"loss": "<script>"}, r"unknown loss '\<script\>'"),
    ],
)
def test_a_hostile_setting_is_one_line_and_left_out(root: Any, link: dict[str, str], said: str) -> None:
    app = open_page(root, "distill", **link)
    assert not app.exception
    assert any(said in line for line in lines(app))
    assert "mo-score" in card(app)


def test_a_student_of_another_workload_becomes_the_teachers_own(root: Any) -> None:
    app = open_page(root, "distill", student="lenet5")
    assert not app.exception
    assert app.session_state[KEYS["student"]] == "own"
    app = open_page(root, "distill", student="mlp")
    assert app.session_state[KEYS["student"]] == "mlp"


def test_the_band_is_the_student_without_a_teacher() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    here = bench.Bench(w, "cnn", model, "onnx", "cpu", "tune")
    shipped = shipped_curves.curve(mo.Distill(), "temperature", model, w)
    assert shipped is not None
    assert shipped.beside is not None
    assert beside.reference(Setting(here, mo.Distill(temperature=9))) == (shipped.beside.score, "without a teacher")
    assert band(mo.Estimate(0.9, 0.85, 0.951234, 5), "alone") == (85.0, 90.0, 95.12, "alone")


JOINT = {"of": ["cnn", "cnn-2"], "steps": [{"step": "Ensemble"}]}


def test_several_models_teach_as_one(root: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link names the ensemble; the student is then built as the bench's model is; the job is handed the ensemble."""
    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path))
    monkeypatch.setattr(jobs.Job, "launch", lambda _: None)
    link = json.dumps(JOINT, separators=(",", ":"))
    app = open_page(root, "distill", teacher=link)
    assert lines(app) == []
    assert app.get_by_key("Distill.teacher.select").options == [
        "cnn", "Ensemble of cnn + cnn-2", "Cascade 0.9 of mlp + cnn"
    ]  # fmt: skip
    assert (app.query_params["teacher"], app.query_params["student"]) == (link, "cnn")
    assert "Not measured" in html(app)
    app.button("work-run").click().run()
    [path] = tmp_path.glob("*/job.json")
    plan = jobs.Job(path.parent).plan
    w = mo.workload("digits")
    whole = mo.Ensemble().apply([mo.baseline("digits", name) for name in JOINT["of"]], w)
    assert plan.models == (f"{identity.key(whole)}.mopt",)
    assert json.loads(plan.about) == [JOINT]
    with torch.no_grad():
        assert torch.equal(mopt.load(path.parent / plan.models[0])(w.val.inputs[:9]), whole(w.val.inputs[:9]))
    app.get_by_key("Distill.teacher.select").set_value("").run()
    assert "teacher" not in app.query_params


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ("cnn,mlp", "teacher is not JSON (line 1, column 1: Expecting value); write"),
        ('{"of":["cnn"],"steps":[{"step":"Ensemble"}]}', "has 2 to 8 of them"),
        ('{"of":["cnn","mlp"],"steps":[]}', "members need a step that joins them"),
        ('{"of":["cnn","mlp"],"steps":[{"step":"Prune"}]}', "Prune cannot be step 1 of a model"),
        ('{"of":["cnn","resnet"],"steps":[{"step":"Cascade"}]}', "unknown digits model 'resnet'"),
        ('{"on":"cnn","steps":[{"step":"Finetune"}]}', "Finetune is not measured with this setting"),
    ],
)
def test_a_link_to_no_teacher_is_told(root: Any, teacher: str, text: str) -> None:
    app = open_page(root, "distill", teacher=teacher)
    assert not app.exception
    assert any(text in line for line in lines(app)), lines(app)
    assert "teacher" not in app.query_params
    assert "mo-score" in card(app)
