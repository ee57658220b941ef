"""People stand in line and are told their place; equal work is done once for all of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import modelopt_core as mo
from modelopt_core.machine import cores
from modelopt_core.machine.cache import STORE, Store
from pages.state.bench import Bench
from pages.state.setting import Setting
from pages.work import line, trial
from tests.machine.test_wanted import Steps, absent, asks, in_background, start
from tests.pages.test_pages import _quiet, card, open_page  # noqa: F401  the fixture works by being here
from tests.waiting import join, person, soon


def test_people_are_served_in_the_order_in_which_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 1)
    store, order, threads = Store(costly=True), [], []
    steps = Steps()

    def ask(name: str, make: Callable[[], object]) -> None:
        with cores.asking():
            store.get(name, make)
            store.get(f"{name} again", lambda: order.append(name))  # keeps the place

    threads.append(start(lambda: ask("first", steps)))
    assert steps.begun.wait(30), "the first never began"
    for at, name in enumerate(("second", "third", "fourth"), 2):
        threads.append(start(lambda name=name: ask(name, lambda: order.append(name))))
        soon(lambda at=at: len(cores._line) == at, f"{name} to stand in line")
    steps.gate.set()
    for thread in threads:
        join(thread, "a person in line")
    assert order == ["first", "second", "second", "third", "third", "fourth", "fourth"]
    assert cores._line == []


def test_who_waits_is_told_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 1)
    monkeypatch.setattr(cores, "TELL_AFTER_S", 0.0)
    monkeypatch.setattr(cores, "TELL_EVERY_S", 0.01)
    store, steps, told = Store(costly=True), Steps(), {"second": [], "third": []}

    def ask(name: str, make: Callable[[], object], tell: Callable[[int], None] = lambda before: None) -> None:
        with cores.asking(tell):
            store.get(name, make)

    first = start(lambda: ask("first", steps))
    assert steps.begun.wait(30), "the first never began"
    second = start(lambda: ask("second", lambda: soon(lambda: 1 in told["third"], "the third to move up"),
                               told["second"].append))  # fmt: skip
    soon(lambda: told["second"] != [], "the second to be told")
    third = start(lambda: ask("third", lambda: 3, told["third"].append))
    soon(lambda: told["third"] != [], "the third to be told")
    steps.gate.set()
    for thread in (first, second, third):
        join(thread, "a person in line")
    assert [sorted(set(places), reverse=True) for places in told.values()] == [[1, 0], [2, 1, 0]]


def test_a_moments_wait_is_not_worth_a_word() -> None:
    store, steps, told = Store(), Steps(), []
    maker = start(lambda: store.get("same", steps))
    assert steps.begun.wait(30), "the maker never began"

    def ask() -> None:
        with cores.asking(told.append):
            store.get("same", steps)

    waits = start(ask)
    soon(absent(1), "the person to wait")
    steps.gate.set()
    for thread in (waits, maker):
        join(thread, "the value")
    assert told == []


def test_who_goes_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A released slider stops the script that still waits for the release before: `tell` raises."""
    monkeypatch.setattr(cores, "SERVED", 0)
    monkeypatch.setattr(cores, "TELL_AFTER_S", 0.0)
    monkeypatch.setattr(cores, "TELL_EVERY_S", 0.01)

    def gone(before: int) -> None:
        raise KeyError(before)

    store = Store(costly=True)
    with pytest.raises(KeyError), cores.asking(gone):
        store.get("a", lambda: pytest.fail("made for nobody"))
    assert cores._line == []
    monkeypatch.setattr(cores, "SERVED", 1)
    with cores.asking():
        assert store.get("a", lambda: 1) == 1


def test_a_place_is_left_to_others_while_its_owner_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one who is served and waits for what another makes, who is not served, would wait for ever."""
    monkeypatch.setattr(cores, "SERVED", 1)
    store, steps, got = Store(costly=True), Steps(), []
    maker = in_background(lambda: store.get("slow", steps))
    assert steps.begun.wait(30), "the background never began"
    waits = asks(store, "slow", got)
    soon(absent(1), "the first to wait for the background")
    with cores.asking():
        assert store.get("mine", lambda: 5) == 5  # the only place
    steps.gate.set()
    for thread in (waits, maker):
        join(thread, "the slow value")
    assert got == ["made"]


def test_a_part_of_a_page_stands_in_the_line_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 1)
    store = Store(costly=True)
    with cores.asking():
        for key in "ab":
            with cores.asking():
                assert store.get(key, lambda: 1) == 1
            assert len(cores._line) == 1
    assert cores._line == []


def test_what_others_have_made_meanwhile_needs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 1)
    store, steps, got = Store(costly=True), Steps(), []
    with person():
        waits = asks(store, "same", got)
        soon(lambda: len(cores._line) == 2, "the second to stand in line")
        steps.gate.set()
        store.get("same", steps)
        join(waits, "a value that is at hand, asked for from the line")
    assert got == ["made"]


def test_nobody_stands_in_line_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 0)
    monkeypatch.setattr(cores, "PATIENCE_S", 0.02)
    monkeypatch.setattr(cores, "TELL_EVERY_S", 0.01)
    with cores.asking():
        assert Store(costly=True).get("a", lambda: 1) == 1


def test_neither_the_background_nor_what_costs_nothing_stands_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 0)
    monkeypatch.setattr(cores, "PATIENCE_S", 0.02)
    with cores.background(), cores.asking():
        assert cores.served()
        assert Store(costly=True).get("a", lambda: 1) == 1
        assert cores._line == []
    with cores.asking():
        assert Store().get("a", lambda: 1) == 1
        assert cores._line == []


def test_one_setting_is_measured_once_for_a_whole_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the pages' own call, each session with a copy of the model."""
    made: list[str] = []
    measure = sys.modules["modelopt_core.measuring.measurement"]  # the name in the package is that of the function

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (made.append(name), work(*args, **kwargs))[1]

    monkeypatch.setattr(measure, "_measure", counted("measured", measure._measure))
    monkeypatch.setattr(measure, "predict", counted("predicted", measure.predict))
    monkeypatch.setattr(mo.Prune, "transform", counted("pruned", mo.Prune.transform))
    monkeypatch.setattr("pages.state.pin.current", lambda bench: trial.pin.came(bench))
    workload, together = mo.workload("digits"), threading.Barrier(8)

    def session(_: int) -> float:
        bench = Bench(workload, "mlp", mo.baseline("digits", "mlp"), "onnx", "cpu", "tune")
        together.wait(30)
        return trial.measure(Setting(bench, mo.Prune(ratio=0.37))).measurement.score.value

    STORE.clear()
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(session, range(8)))
    assert len(set(scores)) == 1
    assert sorted(made) == ["measured"] * 2 + ["predicted"] * 2 + ["pruned"]  # the model as it came, and the pruned one


def test_the_line_says_who_comes_before() -> None:
    assert line.said(0) == "Being measured now …"
    assert line.said(1) == "1 person is served before you …"
    assert line.said(12) == "12 people are served before you …"


def test_the_page_says_who_is_served_before(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "SERVED", 1)
    monkeypatch.setattr(cores, "TELL_AFTER_S", 0.0)
    monkeypatch.setattr(cores, "TELL_EVERY_S", 0.01)
    shown: list[int] = []
    original = line.said
    monkeypatch.setattr(line, "said", lambda before: (shown.append(before), original(before))[1])
    app = open_page(root, "prune", model="mlp", ratio="0.41")  # what is at hand from now on needs no place
    assert shown == []
    there = threading.Event()

    def another() -> None:
        with person():
            there.set()
            soon(lambda: 1 in shown, "the page to say that one is before")

    STORE.clear()
    holds = start(another)
    assert there.wait(30), "the other person never came"
    app.run()
    join(holds, "the other person")
    assert not app.exception
    assert "mo-cards" in card(app)
    assert shown[-1] == 0  # served in the end
    assert not any("before you" in h.value or "Being measured" in h.value for h in app.html)
