"""The store: least recently used goes, one computation per key, nothing kept of a failure."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from modelopt_core.machine import cores
from modelopt_core.machine.cache import Store
from tests.waiting import join, soon


def test_least_recently_used_goes_by_hand():
    store = Store(max_bytes=30)
    for key in "abc":
        store.get(key, lambda key=key: key.upper(), lambda _: 10)
    assert store.peek("a") == "A"  # now the most recent
    store.get("d", lambda: "D", lambda _: 10)
    assert [store.peek(k) for k in "abcd"] == ["A", None, "C", "D"]
    assert store.size_bytes == 30


def test_a_value_larger_than_the_store_is_returned_and_pushes_nothing_out():
    store = Store(max_bytes=10)
    store.get("small", lambda: "y", lambda _: 4)
    assert store.get("big", lambda: "x", lambda _: 11) == "x"
    assert (store.peek("big"), store.peek("small"), store.size_bytes) == (None, "y", 4)
    assert store.get("all", lambda: "z", lambda _: 10) == "z"
    assert (store.peek("all"), store.peek("small")) == ("z", None)


def test_two_threads_pay_once():
    store, paid = Store(), []

    def make() -> int:
        paid.append(1)
        time.sleep(0.02)
        return 7

    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(store.get("k", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    join(threads, "what one of them makes")
    assert (got, len(paid)) == ([7] * 8, 1)


def test_a_failure_leaves_nothing_behind():
    store = Store()
    with pytest.raises(ZeroDivisionError):
        store.get("k", lambda: 1 // 0)
    assert store.get("k", lambda: 1) == 1


def test_an_invalid_value_is_made_again():
    store = Store()
    store.get("k", lambda: [1])
    assert store.get("k", lambda: [2], valid=lambda v: v == [2]) == [2]
    assert len(store) == 1


def waits_for_another(store: Store, make: Callable[[], int], mine: Callable[[], int], **given: Any) -> int:
    """What somebody gets who asks, with `mine`, for a key while another thread makes it with `make`."""
    begun, gate, got = threading.Event(), threading.Event(), []

    def slow() -> int:
        begun.set()
        assert gate.wait(30), "nobody opened the gate"
        return make()

    def first() -> None:
        with suppress(ZeroDivisionError):
            store.get("k", slow)

    maker = threading.Thread(target=first)
    asker = threading.Thread(target=lambda: got.append(store.get("k", mine, **given)))
    maker.start()
    assert begun.wait(30), "the first never began"
    asker.start()
    soon(lambda: cores._waits, "the second to wait for the first")
    gate.set()
    join([maker, asker], "both")
    return got[0]


def test_who_waits_gets_the_value_even_where_it_is_not_kept(monkeypatch):
    monkeypatch.setattr(Store, "_put", lambda *_: None)
    assert waits_for_another(Store(), lambda: 1, lambda: 2) == 1


def test_who_waits_makes_the_value_where_the_other_failed_or_it_does_not_hold():
    assert waits_for_another(Store(), lambda: 1 // 0, lambda: 2) == 2
    assert waits_for_another(Store(), lambda: 1, lambda: 2, valid=lambda v: v == 2) == 2
