"""Whoever a person waits for is no background: two threads and one key, keys inside keys, pools, chains of waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelopt_core.machine import cores
from modelopt_core.machine.cache import Store
from tests.waiting import join, person, soon

LONG_S = 300.0  # the last resort, out of a test's reach


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def in_background(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with cores.background():
            work()

    return start(run)


class Steps:
    """A value that takes three steps, with a pause before each. gate: let the first step begin."""

    def __init__(self, pause: Callable[[], None] = lambda: cores.pause(LONG_S)) -> None:
        self.gate, self.begun, self.went, self.pause = threading.Event(), threading.Event(), 0, pause

    def __call__(self) -> str:
        self.begun.set()
        assert self.gate.wait(30), "nobody opened the gate"
        for _ in range(3):
            self.pause()
            self.went += 1
        return "made"


def asks(store: Store, key: str, got: list[Any]) -> threading.Thread:
    """A person asks for the key."""

    def ask() -> None:
        with cores.asking():
            got.append(store.get(key, lambda: pytest.fail("made twice")))

    return start(ask)


def absent(count: int) -> Callable[[], bool]:
    return lambda: sum(one.absent for one in cores._line) == count


def test_what_a_person_waits_for_is_no_background() -> None:
    store, steps, other, got = Store(), Steps(), Steps(), []
    maker = in_background(lambda: store.get("same", steps))
    bystander = in_background(lambda: store.get("another", other))
    assert steps.begun.wait(30), "the background never began"
    assert other.begun.wait(30), "the bystander never began"
    with person():  # somebody else, for whom the background stands still all the time
        other.gate.set()
        steps.gate.set()
        time.sleep(0.05)
        assert (steps.went, other.went) == (0, 0)
        waits = asks(store, "same", got)
        join(waits, "the value that the background makes")
        join(maker, "the background")
        assert got == ["made"]
        assert other.went == 0  # what nobody waits for is background as before
    join(bystander, "the bystander")


def test_the_one_who_waits_is_enough_to_hold_up_the_rest() -> None:
    store, steps, other, got = Store(), Steps(), Steps(), []
    maker = in_background(lambda: store.get("same", steps))
    bystander = in_background(lambda: store.get("another", other))
    assert steps.begun.wait(30), "the background never began"
    waits = asks(store, "same", got)
    soon(absent(1), "the person to wait for the value")
    other.gate.set()
    time.sleep(0.05)
    assert other.went == 0
    steps.gate.set()
    for thread in (waits, maker, bystander):
        join(thread, "somebody")
    assert got == ["made"]


def test_keys_inside_keys_and_the_end_of_waiting() -> None:
    """A person who waits for the inner value speeds that up; what the background does after it can wait again."""
    store, inner, after, got = Store(), Steps(), Steps(), []
    after.gate.set()
    maker = in_background(lambda: store.get("outer", lambda: (store.get("inner", inner), after())))
    assert inner.begun.wait(30), "the background never began"
    with person():
        inner.gate.set()
        waits = asks(store, "inner", got)
        join(waits, "the inner value")
        time.sleep(0.05)
        assert (got, after.went) == (["made"], 0)
        join(asks(store, "outer", got), "the outer value")
        assert got[1] == ("made", "made")
    join(maker, "the background")


def test_a_person_speeds_up_whom_the_background_itself_waits_for() -> None:
    store, steps, got = Store(), Steps(), []
    first = in_background(lambda: store.get("deep", steps))
    assert steps.begun.wait(30), "the background never began"
    second = in_background(lambda: store.get("outer", lambda: store.get("deep", steps)))
    soon(lambda: len(cores._waits) == 1, "one background to wait for the other")
    with person():
        steps.gate.set()
        time.sleep(0.05)
        assert steps.went == 0
        join(asks(store, "outer", got), "the value behind two waits")
    assert got == ["made"]
    for thread in (first, second):
        join(thread, "the background")


def test_a_pool_that_works_for_the_background_hurries_too() -> None:
    store, got = Store(), []
    steps = Steps()

    def make() -> str:
        steps.pause = cores.pauser(LONG_S)  # as `predict` hands it to its threads
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(steps).result(30)

    maker = in_background(lambda: store.get("same", make))
    assert steps.begun.wait(30), "the background never began"
    with person():
        steps.gate.set()
        time.sleep(0.05)
        assert steps.went == 0
        join(asks(store, "same", got), "the value that a pool makes")
    join(maker, "the background")
    assert got == ["made"]
