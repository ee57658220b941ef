"""Results that were paid for once: an LRU store bounded in bytes, safe between threads, each key computed by one."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from modelopt_core.machine import cores

T = TypeVar("T")
MAX_BYTES = 128 * 2**20
SMALL = 4096  # bytes of a measurement with its key, and of whatever else has no size of its own
_stores: weakref.WeakSet[Store] = weakref.WeakSet()


class Unkept(str):
    """Text that stands for something that may change unseen; nothing is kept under a key that has it."""


@dataclass(eq=False)
class _Making:
    """A value on its way, and whose turn it is to make it. made: it is there; over: nothing comes any more."""

    maker: cores.Turn
    value: Any = None
    made: bool = False
    over: bool = False


class Store:
    """Least recently used goes first when `max_bytes` is passed. A value's size is told by whoever puts it; what is
    larger than the whole store is not kept.

    costly: a person for whom something is to be made stands in line for it (see cores.py).
    """

    def __init__(self, max_bytes: int = MAX_BYTES, *, costly: bool = False) -> None:
        self.max_bytes, self.costly = max_bytes, costly
        self.size_bytes = 0
        self._items: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._making: dict[object, _Making] = {}
        self._lock = threading.Lock()
        _stores.add(self)

    def get(
        self,
        key: object,
        make: Callable[[], T],
        size_bytes: Callable[[T], int] = lambda _: SMALL,
        valid: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """The value under `key`, made by `make` when it is not there (or no longer `valid`), or each time if `Unkept`.

        Two threads that want one key wait for one computation; a `make` that raises leaves nothing behind.
        """
        if _unkept(key):
            if self.costly:
                cores.line_up()
            return make()
        while True:
            if (found := self.peek(key)) is not None and valid(found):
                return found
            with self._lock:
                other = self._making.get(key)
                if other is None and self._at(key) is found and (cores.served() or not self.costly):
                    mine = self._making[key] = _Making(cores.mine())
                    break
            if other is None:
                cores.line_up(partial(self._changed, key, found))
                continue
            cores.wait_for(other.maker, partial(getattr, other, "over"))
            if other.made and valid(other.value):  # also where it was too large to be kept
                value: T = other.value
                return value
        try:
            value = mine.value = make()
            mine.made = True
            self._put(key, value, size_bytes(value))
        finally:
            with self._lock:
                del self._making[key]
            mine.over = True
            cores.news()
        return value

    def put(self, key: object, value: T, size_bytes: int = SMALL) -> T:
        """Keep `value` under `key` from now on, whatever was there; returns it."""
        self._put(key, value, size_bytes)
        return value

    def _changed(self, key: object, found: object) -> bool:
        """Does somebody make what was not there, or has done so?"""
        return key in self._making or self._at(key) is not found

    def _at(self, key: object) -> Any:
        return self._items.get(key, (None, 0))[0]

    def peek(self, key: object) -> Any:
        """The value under `key`, or None; counts as a use."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def clear(self) -> None:
        """Forget everything (benchmarks measure cold)."""
        with self._lock:
            self._items.clear()
            self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def _put(self, key: object, value: object, size: int) -> None:
        if _unkept(key):
            return
        with self._lock:
            if key in self._items:
                self.size_bytes -= self._items.pop(key)[1]
            if size > self.max_bytes:
                return
            self._items[key] = (value, size)
            self.size_bytes += size
            while self.size_bytes > self.max_bytes:
                _, (_, freed) = self._items.popitem(last=False)
                self.size_bytes -= freed


def stores() -> list[Store]:
    """Every store of the process: together they hold no more than the sum of their `max_bytes`."""
    return [*_stores]


def _unkept(key: object) -> bool:
    return isinstance(key, Unkept) or (isinstance(key, tuple) and any(map(_unkept, key)))


STORE = Store(costly=True)
