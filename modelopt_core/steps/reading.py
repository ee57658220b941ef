"""The text of a recipe, as somebody may have written it by hand: read without PyTorch, refused with line and step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from modelopt_core.errors import FieldError, ModelOptError, plain, unknown

VERSION = 1
FORM = '{"version": 1, "steps": [{"step": "Prune", …}, …]}'
MARK = "\ufeff"  # some editors begin a file with it
MOST_DIGITS = 300  # of a whole number; a longer one is infinite
MOST_DEEP = 32  # lists and objects in each other

T = TypeVar("T")


class Object(dict[str, Any]):
    """A JSON object; twice: a name that stood in it more than once, or None."""

    twice: str | None = None


def _once(found: list[tuple[str, Any]]) -> Object:
    made = Object(found)
    if len(made) < len(found):
        names = [name for name, _ in found]
        made.twice = next(name for at, name in enumerate(names) if name in names[:at])
    return made


def _whole(digits: str) -> float:
    return int(digits) if len(digits) <= MOST_DIGITS else float(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_whole)


def loads(text: str, what: str, remedy: str = "mend it there") -> Any:
    """What a JSON text says; a ModelOptError for what is none. what, remedy: for the error."""
    found = _decoded(text, what, remedy)
    if (name := _twice(found)) is not None:
        raise ModelOptError(f"{what} has {plain(name)!r} twice in one object; leave one out")
    return found


def read(text: str, steps: Mapping[str, Callable[..., T]]) -> tuple[T, ...]:
    """The steps that a recipe's text lists, made by name. ModelOptError with the field, the step and its line."""
    text = text.removeprefix(MARK)
    data = _decoded(text, "recipe")
    begin = _skip(text, 0)
    lines = {name: _line(text, key) for name, key, _ in _members(text, begin)} if isinstance(data, Object) else {}
    if isinstance(data, Object) and data.twice:
        raise ModelOptError(f"recipe line {lines[data.twice]}: {plain(data.twice)!r} stands there twice; leave one out")
    if wrong := [name for name in lines if name not in ("version", "steps")]:
        raise ModelOptError(f"recipe line {lines[wrong[0]]}: {unknown('part', wrong[0], ('version', 'steps'))}")
    if not isinstance(data, Object) or not isinstance(data.get("steps"), list):
        raise ModelOptError(f"recipe line 1: it must be {FORM}")
    version = data.get("version", VERSION)
    if type(version) is not int or version != VERSION:
        raise ModelOptError(f"recipe version {plain(version)} is not known; this program reads version {VERSION}")
    at = next(value for name, _, value in _members(text, begin) if name == "steps")
    return tuple(_step(item, n, text, place, steps) for n, (item, place) in enumerate(_elements(text, at), start=1))


def _step(item: Any, n: int, text: str, place: int, steps: Mapping[str, Callable[..., T]]) -> T:
    """The n-th step, which begins at `place`."""
    if not isinstance(item, Object) or "step" not in item:
        raise ModelOptError(f'recipe line {_line(text, place)}, step {n}: it must be an object with a field "step"')
    lines = {name: _line(text, key) for name, key, _ in _members(text, place)}
    for name, value in item.items():
        if name == item.twice or _twice(value) is not None:
            again = plain(item.twice if name == item.twice else _twice(value))
            where = f"recipe line {lines[name]}, step {n}, {plain(name)}"
            raise ModelOptError(f"{where}: {again!r} stands there twice; leave one out")
    fields = {name: value for name, value in item.items() if name != "step"}
    try:
        return steps[item["step"]](**fields)
    except ModelOptError as error:
        field = error.field if isinstance(error, FieldError) and error.field in lines else "step"
        raise ModelOptError(f"recipe line {lines[field]}, step {n}, {plain(field)}: {error}") from None


def _decoded(text: str, what: str, remedy: str = "mend it there") -> Any:
    text = text.removeprefix(MARK)
    try:
        found = DECODER.decode(text)
        json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        where = "nested too deep"
    except UnicodeEncodeError:
        where = "it has half of a character, such as \\ud800"
    else:
        if not _deeper(found, MOST_DEEP):
            return found
        where = "nested too deep"
    raise ModelOptError(f"{what} is not JSON ({where}); {remedy}")


def _deeper(value: Any, levels: int) -> bool:
    """Are there more lists and objects in each other?"""
    found = [value]
    for _ in range(levels):
        found = [inner for outer in found for inner in _inside(outer)]
    return bool(found)


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _twice(value: Any) -> str | None:
    """A name that stands twice in an object, or in one inside."""
    if isinstance(value, Object) and value.twice is not None:
        return value.twice
    return next((name for name in map(_twice, _inside(value)) if name is not None), None)


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """(name, where it stands, where its value begins) of the JSON object that begins at `at`."""
    place = _skip(text, at + 1)
    while text[place] != "}":
        name, end = DECODER.raw_decode(text, place)
        value = _skip(text, end)
        yield name, place, value
        place = _skip(text, DECODER.raw_decode(text, value)[1])


def _elements(text: str, at: int) -> Iterator[tuple[Any, int]]:
    """(value, where it begins) of the JSON array that begins at `at`."""
    place = _skip(text, at + 1)
    while text[place] != "]":
        value, end = DECODER.raw_decode(text, place)
        yield value, place
        place = _skip(text, end)


def _skip(text: str, place: int) -> int:
    """Past blanks and what stands between names, values and elements."""
    while text[place : place + 1] and text[place] in " \t\r\n,:":
        place += 1
    return place


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
