"""The page Fuse as a script: what the Dial turns, links, members that no line joins, every tab, hostile values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import modelopt_core as mo
from modelopt_core.steps.fuse import ROUTES, barrier, learned
from pages.fusing import combiner, turning, valley
from pages.state import bench
from pages.state.stack import Stack
from pages.work import trial
from tests.pages.test_pages import _quiet, card, lines, open_page  # noqa: F401  the fixture works by being here
from tests.waiting import wait_until

PAIR = (Stack("cnn", ()), Stack("cnn-2", ()))


@pytest.fixture(scope="module")
def here() -> bench.Bench:
    return bench.Bench(mo.workload("digits"), "cnn", mo.baseline("digits", "cnn"), "onnx", "cpu", "tune")


def open_tab(root: Any, tab: str, **url: str) -> AppTest:
    """The page with one tab open."""
    app = open_page(root, "fuse", **url)
    app.session_state["tabs-Fuse-tune"] = tab
    app.run()
    assert not app.exception
    return app


def html(app: AppTest) -> str:
    return "".join(h.value for h in app.html)


def test_the_dial_goes_from_one_network_to_the_other(here: bench.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning.pool, "current", lambda *_: PAIR)
    handle = turning.turn(mo.Fuse(), here)
    assert handle.value == 0.5
    assert handle.at(0.25) == mo.Fuse(weights=(0.75, 0.25))
    assert "0 is cnn, 1 is cnn-2" in handle.about
    ends = [handle.at(end).apply([member.model(here.workload) for member in PAIR], here.workload) for end in (0.0, 1.0)]
    for whole, name in zip(ends, ("cnn", "cnn-2"), strict=True):
        alone = mo.predictions(mo.baseline("digits", name), here.workload)
        assert mo.predictions(whole, here.workload).answers.tolist() == alone.answers.tolist()
    greedy = turning.turn(mo.Fuse(select="greedy"), here)
    assert greedy.value in (0.0, 0.5, 1.0)
    assert greedy.at(0.5).select == "all"


def test_the_dial_turns_the_share_of_any_member(here: bench.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares 1 : 2 : 1. Half for the second leaves a quarter each; three quarters for the first, 2 : 1 for the rest."""
    trio = (*PAIR, Stack("cnn", ()))
    monkeypatch.setattr(turning.pool, "current", lambda *_: trio)
    step = mo.Fuse(weights=(1, 2, 1), align="none")
    for chosen, value, at, expected in (
        (2, 0.5, 0.5, (0.25, 0.5, 0.25)),
        (1, 0.25, 0.75, (0.75, 0.166667, 0.083333)),
        (None, 0.25, 1.0, (0.0, 0.0, 1.0)),
    ):
        monkeypatch.setattr(turning.st, "session_state", {turning.DIAL: chosen})
        handle = turning.turn(step, here)
        assert handle.value == value
        assert handle.at(at).weights == expected
    monkeypatch.setattr(turning.pool, "current", lambda *_: PAIR)
    monkeypatch.setattr(turning.st, "session_state", {turning.DIAL: 1})
    assert turning.turn(mo.Fuse(), here).name == "share of cnn-2", "between two it is the line from first to last"


def test_who_the_dial_turns_is_chosen_and_linked(root: Any) -> None:
    link = {"members": "cnn,cnn-2,cnn", "align": "none", "recovery": "none"}
    app = open_page(root, "fuse", **link)
    assert not app.exception
    assert "dial" not in app.query_params
    app.selectbox("Fuse.dial.choice").select_index(1).run()
    assert not app.exception
    assert app.query_params["dial"] == "2"
    assert app.selectbox("Fuse.dial.choice").value == 1
    assert open_page(root, "fuse", **link, dial="1").selectbox("Fuse.dial.choice").value == 0
    [line] = lines(open_page(root, "fuse", **link, dial="7"))
    assert "unknown member for the dial '7'; choose from 1, 2, 3" in line


def test_the_dial_turns_scale_or_pull(here: bench.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning.pool, "current", lambda *_: PAIR)
    scale = turning.turn(mo.Fuse(merge="ties", scale=1.5), here)
    assert (scale.value, scale.at(0.5)) == (1.5, mo.Fuse(merge="ties", scale=0.5))
    pull = turning.turn(mo.Fuse(of="outputs", strengths=(0.01,)), here)
    assert pull.value == pytest.approx(-2)
    assert pull.at(-1.0) == mo.Fuse(of="outputs", strengths=(0.1,))
    chosen = turning.turn(mo.Fuse(of="outputs"), here).value
    whole = mo.Fuse(of="outputs").apply([member.model(here.workload) for member in PAIR], here.workload)
    assert chosen == min(turning.PULL.high, math.log10(learned(whole).strength))


def test_the_valley_is_what_the_core_measures(here: bench.Bench) -> None:
    """Every route at every place; the straight one falls deepest."""
    sweep = valley.request(trial.Setting(here, mo.Fuse(), members=PAIR))
    setting = trial.Setting(here, mo.Fuse(), members=PAIR)
    wait_until(lambda: valley.request(setting).done, "the three routes", every_s=0.05)
    found = {name: [spot for route, spot in sweep.points if route == name] for name in ROUTES}
    assert {len(spots) for spots in found.values()} == {valley.POINTS}
    plain, moved, mended = (barrier(found[name]) for name in ROUTES)
    assert plain > moved > mended > 0


@pytest.mark.parametrize(
    "link",
    [
        {"of": "weights", "merge": "slerp", "align": "none", "recovery": "none", "weights": "0.25,0.75"},
        {"of": "outputs", "strengths": "0.1", "folds": "4", "members": "cnn,mlp"},
        {"of": "features", "strengths": "0.01", "members": "mlp,cnn"},
    ],
)
def test_a_link_restores_everything(root: Any, link: dict[str, str]) -> None:
    app = open_page(root, "fuse", workload="digits", **link)
    assert not app.exception
    assert lines(app) == []
    assert {name: app.query_params[name] for name in link} == link
    again = open_page(root, "fuse", **{k: v for k, v in app.query_params.items() if isinstance(v, str)})
    assert again.query_params == app.query_params
    assert "mo-score" in card(again)


def test_no_line_joins_two_architectures(root: Any) -> None:
    """The first tensor that differs is named, and a button fuses what the members say."""
    app = open_page(root, "fuse", members="cnn,mlp")
    assert not app.exception
    [line] = lines(app)
    assert "one architecture: conv1.weight is (16, 1, 3, 3) in model 1 and absent in model 2; fuse outputs or" in line
    app.button("Fuse.instead.outputs").click().run()
    assert not app.exception
    assert lines(app) == []
    assert app.query_params["of"] == "outputs"
    assert "cross-fitted: each of 5 parts of val" in html(app)


@pytest.mark.parametrize("of", ["weights", "outputs", "features"])
def test_every_tab_draws(root: Any, of: str) -> None:
    app = open_page(root, "fuse", of=of)
    found = [tab.label for tab in app.tabs]
    assert found == ["Valley", "Members", "Combiner", "Examples", "Source", "Numbers"]
    for label in [*found, *found]:
        app.session_state["tabs-Fuse-tune"] = label
        app.run()
        assert not app.exception, label
        assert lines(app) == []


def test_test_is_told_on_request_only(root: Any) -> None:
    app = open_tab(root, "Members", of="outputs", members="cnn,mlp")
    assert "score on test" not in html(app)
    assert "its val score comes from 5 heads" in html(app)
    app.toggle("Fuse.test").set_value(True).run()
    assert "score on test" in html(app)
    assert not app.exception


def test_the_folds_choose_again(root: Any) -> None:
    app = open_tab(root, "Combiner", of="outputs", strengths="0.01")
    assert "You hold it: a pull of 0.01" in html(app)
    app.button("Fuse.folds.choose").click().run()
    assert app.session_state["Fuse.strengths"] == ()
    assert "The folds chose: " in html(app)


def test_one_edge_between_two_members() -> None:
    assert combiner._edges([3, 2, 4]) == [2.5, 4.5]
    assert combiner._edges([3]) == []
    assert math.isclose(turning.PULL.low, -4)


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"of": "answers"}, "of=answers is not allowed; of must be 'weights', 'outputs' or 'features'"),
        ({"weights": "0,0"}, "all weights are zero, nothing would be left"),
        ({"strengths": "-1"}, "a strength of -1 is not allowed"),
        ({"folds": "1"}, "folds=1 is not allowed; folds must be a whole number ≥ 2 and ≤ 20"),
        ({"members": "cnn"}, "a pool of 1 member is too small"),
        ({"members": "cnn,lenet5"}, "unknown digits model 'lenet5'"),
    ],
)
def test_a_hostile_link_is_one_line(root: Any, link: dict[str, str], said: str) -> None:
    app = open_page(root, "fuse", **link)
    assert not app.exception
    assert any(said in line for line in lines(app)), lines(app)
    assert "mo-score" in card(app)
