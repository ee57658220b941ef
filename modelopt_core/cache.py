"""Results that were paid for once: an LRU store bounded in bytes, safe between threads, each key computed by one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
MAX_BYTES = 384 * 2**20


class Store:
    """Least recently used goes first when `max_bytes` is passed. A value's size is told by whoever puts it."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._items: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._making: dict[object, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(
        self,
        key: object,
        make: Callable[[], T],
        size_bytes: Callable[[T], int] = lambda _: 1024,
        valid: Callable[[T], bool] = lambda _: True,
    ) -> T:
        """The value under `key`, made by `make` when it is not there (or no longer `valid`).

        Two threads that want one key wait for one computation; a `make` that raises leaves nothing behind.
        """
        if (found := self.peek(key)) is not None and valid(found):
            return found
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if (found := self.peek(key)) is not None and valid(found):
                return found
            try:
                value = make()
                self._put(key, value, size_bytes(value))
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

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
        with self._lock:
            if key in self._items:
                self.size_bytes -= self._items.pop(key)[1]
            self._items[key] = (value, size)
            self.size_bytes += size
            while self.size_bytes > self.max_bytes and len(self._items) > 1:
                _, (_, freed) = self._items.popitem(last=False)
                self.size_bytes -= freed


STORE = Store()
