"""Background curves: points come in order, errors are a sentence, the last request goes first."""

import threading
import time

from modelopt_core.errors import ModelOptError
from modelopt_core.studies.background import Sweeper
from tests.waiting import SOON_S, person, wait_until


def test_points_arrive_in_order_and_once():
    sweeper, started = Sweeper(), []

    def work():
        started.append(1)
        yield from (1, 2, 3)

    sweep = sweeper.request("a", 3, work)
    wait_until(lambda: sweep.done, "the sweep to be complete")
    assert sweep.points == [1, 2, 3]
    assert sweeper.request("a", 3, work) is sweep
    assert started == [1]


def test_an_error_is_a_sentence_and_the_worker_goes_on():
    def broken():
        yield 1
        raise ModelOptError("no such thing; choose another")

    def defect():
        yield 1
        raise ZeroDivisionError("division by zero")

    sweeper = Sweeper()
    first, second = sweeper.request("a", 2, broken), sweeper.request("b", 2, defect)
    third = sweeper.request("c", 1, lambda: iter([5]))
    wait_until(lambda: first.done and second.done and third.done, "three sweeps")
    assert (first.error, first.points) == ("no such thing; choose another", [1])
    assert second.error == "measuring stopped (ZeroDivisionError: division by zero)"
    assert third.points == [5]


def test_what_was_asked_for_last_goes_first():
    sweeper, gate, order = Sweeper(), threading.Event(), []

    def work(name):
        gate.wait(SOON_S)
        for i in range(2):
            order.append(name)
            yield i

    old, new = sweeper.request("old", 2, lambda: work("old")), None
    time.sleep(0.05)  # the worker stands at the gate inside "old"
    new = sweeper.request("new", 2, lambda: work("new"))
    gate.set()
    wait_until(lambda: old.done and new.done, "both sweeps")
    assert order == ["old", "new", "new", "old"]


def test_it_stands_still_while_a_person_waits():
    sweeper = Sweeper()
    with person():
        sweep = sweeper.request("a", 1, lambda: iter([1]))
        time.sleep(0.05)
        assert sweep.points == []
    wait_until(lambda: sweep.done, "the sweep to be complete")


def test_it_ends_after_the_point_at_hand():
    sweeper, begun = Sweeper(), threading.Event()

    def work():
        for i in range(1000):
            begun.set()
            time.sleep(0.001)
            yield i

    sweep = sweeper.request("a", 1000, work)
    assert begun.wait(SOON_S)
    sweeper.stop()
    assert not sweep.done
    assert not any(t.name == "modelopt-sweep" and t is sweeper._thread and t.is_alive() for t in threading.enumerate())


def test_a_sweep_that_nobody_asks_for_rests_and_goes_on_when_asked_again():
    sweeper, asked = Sweeper(), threading.Event()

    def work():
        yield 1
        asked.wait(SOON_S)
        yield 2
        yield 3

    sweep = sweeper.request("a", 3, work, patience_s=0.05)
    wait_until(lambda: sweep.points == [1], "the first point")
    time.sleep(0.1)  # nobody asks
    asked.set()
    wait_until(lambda: sweep.points == [1, 2], "the point that was begun")  # what was begun is finished
    time.sleep(0.1)
    assert (sweep.points, sweep.done) == ([1, 2], False)
    assert sweeper.request("a", 3, work) is sweep
    wait_until(lambda: sweep.done, "the sweep to be complete")
    assert sweep.points == [1, 2, 3]


def test_forgotten_curves_end_and_let_go():
    sweeper, begun = Sweeper(), []
    try:
        first = sweeper.request("a", 10**6, lambda: (begun.append(i) or i for i in range(10**6)))
        wait_until(lambda: len(first.points) > 3, "the first points")
        sweeper.forget()
        wait_until(lambda: not sweeper._queue, "an empty queue")
        again = sweeper.request("a", 1, lambda: iter([7]))
        wait_until(lambda: again.done, "the curve that was asked for anew")
        assert (again is first, again.points, first.done) == (False, [7], False)
    finally:
        sweeper.stop()
