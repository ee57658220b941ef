"""The store: least recently used goes, one computation per key, nothing kept of a failure."""

import threading
import time

import pytest

from modelopt_core.cache import Store
from tests.waiting import join


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
