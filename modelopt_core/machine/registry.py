"""A named table of plug points: one decorated function, and the name exists everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable, ItemsView, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from modelopt_core.errors import ModelOptError, unknown

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A registered function and what it declares about itself."""

    name: str
    function: F
    properties: Mapping[str, object]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """First line of the docstring: what it computes, with shapes."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def text(self) -> str:
        """The whole docstring: what the page prints."""
        return inspect.getdoc(self.function) or ""

    @property
    def source(self) -> str:
        """The function as it runs, for the Source tab."""
        return inspect.getsource(self.function)

    def __getitem__(self, prop: str) -> object:
        return self.properties[prop]


class Registry(Mapping[str, Entry[F]], Generic[F]):
    """Names to functions. An unknown name's error lists the known ones.

    >>> RULES: Registry[Callable[[int], int]] = Registry("rule")
    >>> @RULES.register("double")
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> RULES["double"](4)
    8
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[F]] = {}

    def register(self, name: str, **properties: object) -> Callable[[F], F]:
        """Decorator: put the function under `name`, declaring `properties` that the contract tests hold it to."""

        def keep(function: F) -> F:
            if name in self._entries:
                raise ModelOptError(f"{self.kind} {name!r} is registered already; choose another name")
            self._entries[name] = Entry(name, function, properties)
            return function

        return keep

    def __getitem__(self, name: str) -> Entry[F]:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise unknown(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def items(self) -> ItemsView[str, Entry[F]]:
        """(name, entry) of all, as a plain dict's: pages ask for them all the time."""
        return self._entries.items()

    def __len__(self) -> int:
        return len(self._entries)
