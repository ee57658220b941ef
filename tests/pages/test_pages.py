"""Every page as a script: it runs, runs again, survives any link, and says errors in one line."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

import modelopt_core as mo
from modelopt_core.errors import DataMissing
from modelopt_core.workloads.workload import Workload
from pages.state import bench, controls
from pages.tabs import baselines, cards
from tests.waiting import LIMIT_S

TECHNIQUES = ("prune", "quantize", "distill", "ensemble", "cascade", "pipeline", "fuse")
HOSTILE = [
    "<script>alert(1)</script>", "'; DROP TABLE", "../../etc/passwd", "nan", "inf", "-1", "1e400", "", "\x00", "null",
    "[]", "{}", "=1+1", "💥", "l3", "0.5.5", "9" * 500, "True", "{\"steps\": 3}", "\u202etxt",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is not under test: time a handful of pairs only. A folder `pages` is no old-style multipage app here.

    The launcher says that to Streamlit once; AppTest makes it forget at every run.
    """
    monkeypatch.setattr("modelopt_core.runtime.latency.REPEATS", 3)
    original = PagesManager.__init__

    def init(self: PagesManager, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        PagesManager.uses_pages_directory = False

    monkeypatch.setattr(PagesManager, "__init__", init)


def open_page(root: Any, page: str = "", **url: str) -> AppTest:
    """The app at a link, as a new session."""
    app = AppTest.from_file(str(root / "app.py"), default_timeout=LIMIT_S)
    for name, value in url.items():
        app.query_params[name] = value
    if page:
        app.switch_page(f"pages/{page}.py")
    return app.run()


def card(app: AppTest) -> str:
    """The HTML of the cards."""
    return next(h.value for h in app.html if "mo-cards" in h.value)


def lines(app: AppTest) -> list[str]:
    """All that is said as toast, warning or error."""
    return [str(e.value) for kind in (app.toast, app.warning, app.error) for e in kind]


def test_home_shows_three_doors_and_the_baselines(root: Any) -> None:
    app = open_page(root)
    assert not app.exception
    assert [app.button(f"open-{view}").label for view in bench.VIEWS] == ["Open Learn", "Open Tune", "Open Present"]
    table = next(h.value for h in app.html if "score on val" in h.value)
    assert all(name in table for name in mo.workload("digits").models)


@pytest.mark.parametrize("view", bench.VIEWS)
def test_a_door_opens_a_live_dial_in_its_view(root: Any, view: str) -> None:
    app = open_page(root)
    app.button(f"open-{view}").click().run()
    assert not app.exception
    assert app.session_state["view"] == view
    assert "mo-score" in card(app)


@pytest.mark.parametrize("page", TECHNIQUES)
@pytest.mark.parametrize("view", bench.VIEWS)
def test_every_page_runs_in_every_view_and_again(root: Any, page: str, view: str) -> None:
    app = open_page(root, page, view=view)
    first = card(app)
    for _ in range(2):
        app.run()
        assert not app.exception
        assert lines(app) == []
    assert card(app) == first
    assert app.query_params["view"] == view


@pytest.mark.parametrize("page", TECHNIQUES)
def test_every_control_can_be_clicked_twice(root: Any, page: str) -> None:
    app = open_page(root, page)
    step: Any = mo.STEPS[page.capitalize()].function
    for name, key in controls.keys(step).items():
        for widget in [w for w in [*app.selectbox, *app.segmented_control] if w.key == key]:
            for option in [*widget.options, *widget.options]:
                app.get_by_key(key).set_value(_value(step, name, option))
                app.run()
                assert not app.exception, (name, option)
                assert lines(app) == []


def _value(step: Any, name: str, label: str) -> object:
    """The choice behind a label of the screen."""
    allowed = step.model_json_schema()["properties"][name].get("enum", [])
    names = {"weights": "weight", "blocks": "block", "channels": "channel", "nothing": "none", "the runtime's": 0}
    known = {str(choice): choice for choice in allowed}
    return known.get(label, names.get(label, "norms")) if allowed else label


def test_a_link_restores_everything(root: Any) -> None:
    link = {"workload": "digits", "model": "mlp", "view": "tune", "runtime": "eager", "ratio": "0.25",
            "criterion": "random", "granularity": "weight", "scope": "global", "recovery": "none"}  # fmt: skip
    app = open_page(root, "prune", **link)
    assert not app.exception
    assert lines(app) == []
    assert {name: app.query_params[name] for name in link} == link
    again = open_page(root, "prune", **{k: v for k, v in app.query_params.items() if isinstance(v, str)})
    assert again.query_params == app.query_params


def test_a_criterion_that_does_not_go_with_the_granularity_falls_back_and_says_so(root: Any) -> None:
    app = open_page(root, "prune", criterion="fpgm")
    assert lines(app) == []
    assert all(w.key != "Prune.size" for w in app.number_input), "size means nothing for channels"
    app.get_by_key("Prune.granularity").set_value("n:m")
    app.run()
    assert not app.exception
    assert app.session_state["Prune.criterion"] == "l1"
    assert any("criterion 'fpgm' does not fit here" in line and "Using the default" in line for line in lines(app))
    assert "fpgm" not in app.get_by_key("Prune.criterion").options
    assert app.get_by_key("Prune.size").value == 4


def test_a_criterion_that_the_model_cannot_serve_is_one_line(root: Any) -> None:
    app = open_page(root, "prune", model="mlp", criterion="bn_scale")
    assert not app.exception
    assert ["needs batch norm" in line and "choose from l1" in line for line in lines(app)] == [True]  # said once
    app.session_state["view"] = "present"
    app.run()
    assert not app.exception
    assert "needs batch norm" in lines(app)[0]
    app.button("leave").click().run()
    assert app.session_state["view"] == "tune"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_link_falls_back_and_says_so(root: Any, text: str) -> None:
    names = ("workload", "model", "view", "device", "runtime", "pin", "ratio", "criterion", "granularity", "unknown")
    app = open_page(root, "prune", **dict.fromkeys(names, text))
    assert not app.exception
    assert "mo-score" in card(app)
    assert app.query_params["criterion"] == "l1"
    assert text == "" or any("Using the default" in line for line in lines(app))
    assert all("\n" not in line for line in lines(app))


def test_random_links_never_raise(root: Any) -> None:
    draw = random.Random(0)
    good = {"workload": ["digits"], "model": ["cnn", "mlp"], "view": list(bench.VIEWS), "ratio": ["0", "0.99", "0.31"],
            "criterion": ["l1", "random"], "granularity": ["weight", "channel"]}  # fmt: skip
    for _ in range(8):
        link = {k: draw.choice(v if draw.random() < 0.7 else HOSTILE) for k, v in good.items()}
        app = open_page(root, "prune", **link)
        assert not app.exception, link
        assert "mo-score" in card(app)


def test_missing_data_is_one_line_and_digits_stand_in(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Workload:
        if name == "mnist":
            raise DataMissing("MNIST is not in /nowhere; run `modelopt fetch mnist`")
        return mo.workload(name)

    monkeypatch.setattr(bench, "load_workload", absent)
    app = open_page(root, "prune", workload="mnist")
    assert not app.exception
    assert any("modelopt fetch mnist" in line and "Digits" in line for line in lines(app))
    assert "Digits val" in card(app)


def test_one_damaged_model_leaves_the_others(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(workload: str, name: str) -> Any:
        if name == "cnn":
            raise DataMissing("weights digits-cnn are damaged; run `modelopt train-zoo digits/cnn`")
        return mo.baseline(workload, name)

    for module in (bench, baselines):
        monkeypatch.setattr(module, "load_model", damaged)
    for link in ({}, {"model": "cnn"}):
        app = open_page(root, "prune", **link)
        assert not app.exception
        assert any("train-zoo digits/cnn" in line and "Digits, mlp" in line for line in lines(app))
        assert "against mlp" in card(app)
    chosen = open_page(root, "prune", model="mlp")
    assert lines(chosen) == []
    home = open_page(root)
    assert any("train-zoo digits/cnn" in h.value and "96.4" in h.value for h in home.html)  # a row each


def test_learn_gives_no_score_away_before_the_guess(root: Any) -> None:
    app = open_page(root, "prune", view="learn")
    assert cards.HIDDEN in card(app)
    assert "McNemar" not in card(app)
    guess_key = "dial Prune digits cnn"
    app.session_state["guesses"] = {guess_key: 0.5}
    app.run()
    assert cards.HIDDEN not in card(app)
    assert "McNemar" in card(app)


@pytest.mark.parametrize(
    ("steps", "said"),
    [([{"step": "Finetune", "epochs": 1000}], "run it on its page first"), ([{"step": "Prune"}] * 9, "at most 8")],
)
def test_a_pin_in_a_link_starts_no_long_work(root: Any, steps: list[dict[str, Any]], said: str) -> None:
    app = open_page(root, "prune", pin=json.dumps({"on": "digits/cnn", "version": 1, "steps": steps}))
    assert any(said in line for line in lines(app))
    assert "pin" not in app.query_params


def test_undo_and_reset_go_back(root: Any) -> None:
    app = open_page(root, "prune")
    first = card(app)
    app.get_by_key("Prune.granularity").set_value("weight")
    app.run()
    second = card(app)
    assert second != first
    app.button("undo").click().run()
    assert card(app) == first
    app.get_by_key("Prune.scope").set_value("global")
    app.run()
    app.button("reset").click().run()
    assert card(app) == first


def test_snapshots_come_back(root: Any) -> None:
    app = open_page(root, "prune", view="present", ratio="0.2")
    first = card(app)
    app.text_input("snapshot-name").set_value("=HYPERLINK(1)")
    app.button("save-snapshot").click().run()
    app.session_state["Prune.ratio"] = 0.7
    app.run()
    assert card(app) != first
    app.button("next").click().run()
    assert not app.exception
    assert card(app) == first
    assert any(t.value == "1 of 1: =HYPERLINK(1)" for t in app.text)
    app.session_state["Prune.ratio"] = 0.7
    app.run()
    assert any(t.value.endswith(", moved since") for t in app.text)


def test_two_sessions_do_not_meet(root: Any) -> None:
    one, two = open_page(root, "prune", ratio="0.1"), open_page(root, "prune", ratio="0.9")
    one.run()
    two.run()
    assert (one.query_params["ratio"], two.query_params["ratio"]) == ("0.1", "0.9")
    assert len(one.session_state["runs"]) == len(two.session_state["runs"]) == 1


def test_weights_are_as_they_were_after_the_pages_ran(root: Any) -> None:
    model = mo.baseline("digits", "cnn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for page in TECHNIQUES:
        open_page(root, page)
    kept = bench.load_model("digits", "cnn").state_dict()
    assert all(bool((kept[name] == tensor).all()) for name, tensor in before.items())


def test_a_page_that_redraws_itself_does_not_take_a_late_url_for_a_step_back() -> None:
    """The browser says bits=4, the session holds 3, and nothing else changed: a step back, unless it is a redraw."""

    def script(stale: bool) -> None:
        import streamlit as st

        from pages.state import address

        st.session_state["bits"] = 3
        address.own({"bits": "bits"})
        st.session_state["url.written"] = st.session_state["url.values"] = address._values()
        if stale:
            st.session_state["url.stale"] = True
        st.query_params.from_dict({"bits": "4"})
        address.read()
        st.text(str(st.session_state.get("url.pending", {}).get("bits")))

    for stale, pending in ((False, "4"), (True, "None")):
        app = AppTest.from_function(script, args=(stale,)).run()
        assert not app.exception
        assert [text.value for text in app.text] == [pending]
