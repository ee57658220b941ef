"""What a step is told: fields with bounds, names and knobs, and one sentence for what is not allowed.

Nothing here needs PyTorch, so that a mistake in a recipe is told before it is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from modelopt_core.errors import FieldError, ModelOptError, plain
from modelopt_core.machine.registry import Registry
from modelopt_core.steps.knob import Knob as Knob

MOST_TOLD = 3  # of one step's mistakes, in one line


@dataclass(frozen=True)
class Named:
    """Type annotation of a field that names an entry of `registry`: checked when the step is made.

    fits: another field, and the property by which an entry declares the values of that field that it goes with.
    """

    registry: Registry[Any]
    fits: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(lambda name: self.registry[name].name, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "enum": sorted(self.registry)}


@dataclass(frozen=True, init=False)
class When:
    """Type annotation of a field that means something only while another field has one of these values."""

    field: str
    values: tuple[object, ...]

    def __init__(self, field: str, *values: object) -> None:
        object.__setattr__(self, "field", field)
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class ModelName:
    """Type annotation of a field that names one of the workload's models, or `own`."""

    own: str


class Fields(BaseModel):
    """Frozen, hashable, comparable, JSON both ways: what a step is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    sentence: ClassVar[str] = ""  # what the page says under the title
    formula: ClassVar[str] = ""  # the formula beside it
    shows: ClassVar[Callable[..., Any] | None] = None  # the function to read, where no registry's entry is

    def __init__(self, /, **values: Any) -> None:
        for name, value in values.items():  # Python's True is the number 1, and pydantic takes it for one
            if _holds_bool(value) and (info := type(self).model_fields.get(name)) and _of_numbers(info.annotation):
                raise FieldError(_refusal(type(self), name, value, _kind(info.annotation)), name)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise FieldError(explain(type(self), error), _at(error.errors()[0])) from None

    @property
    def name(self) -> str:
        """The class name: `Prune`."""
        return type(self).__name__

    @property
    def label(self) -> str:
        """The step in a few characters, for tables: the name, its knobs and what differs from the defaults."""
        fields = type(self).model_fields
        told = [f"{k}={v}" for k, v in self if v != fields[k].default or _annotation(fields[k], Knob)]
        return f"{self.name}({', '.join(told)})"

    @classmethod
    def knob(cls, field: str) -> Knob:
        """The Knob of a field, or an error that names the fields that have one."""
        if isinstance(found := _annotation(cls.model_fields.get(field), Knob), Knob):
            return found
        turnable = [n for n, f in cls.model_fields.items() if _annotation(f, Knob)]
        raise ModelOptError(f"{cls.__name__} has no knob {field!r}; choose from {', '.join(turnable) or 'none'}")

    @classmethod
    def registry(cls, field: str) -> Registry[Any] | None:
        """The registry that a field names an entry of, or None."""
        named = _annotation(cls.model_fields[field], Named)
        return named.registry if isinstance(named, Named) else None

    @classmethod
    def choices(cls, field: str, values: Mapping[str, object]) -> list[str]:
        """Names that a registry field may have beside the other fields' values."""
        named = _annotation(cls.model_fields[field], Named)
        if not isinstance(named, Named) or not named.fits:
            return list(getattr(named, "registry", ()))
        return [n for n, entry in named.registry.items() if values.get(named.fits) in entry.properties[named.fits]]  # type: ignore[operator]

    @classmethod
    def matters(cls, field: str, values: Mapping[str, object]) -> bool:
        """Does the field mean anything beside the other fields' values?"""
        when = _annotation(cls.model_fields[field], When)
        if not isinstance(when, When):
            return True
        return values.get(when.field) in when.values and cls.matters(when.field, values)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        values = dict(self)
        for field, fits in _fitting(type(self)):
            if values[field] not in (fit := self.choices(field, values)):
                raise FieldError(
                    f"{self.name}: {field}={values[field]} does not go with {fits}={values[fits]}; "
                    f"choose from {', '.join(fit)}",
                    field,
                )
        return self

    def changed(self, **values: Any) -> Self:
        """The same step with other values, validated again."""
        return type(self)(**{**self.model_dump(), **values})


def explain(cls: type[Fields], error: ValidationError) -> str:
    """One line for a person: which field, what was given, what is allowed."""
    problems = error.errors()
    told = "; ".join(_told(cls, problem) for problem in problems[:MOST_TOLD])
    return told if len(problems) <= MOST_TOLD else f"{told}; and {len(problems) - MOST_TOLD:,} more"


def _told(cls: type[Fields], problem: ErrorDetails) -> str:
    field = _at(problem) or cls.__name__
    if problem["type"] == "extra_forbidden":
        return f"{cls.__name__} has no field {field[:80]!r}; its fields are {', '.join(cls.model_fields)}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return _refusal(cls, field, problem["input"], problem["msg"].removeprefix("Input should be "))


def _at(problem: ErrorDetails) -> str:
    """The field that a problem is with; empty where it is with several."""
    if problem["loc"]:
        return str(problem["loc"][0])
    return getattr(problem.get("ctx", {}).get("error"), "field", "")


def _refusal(cls: type[Fields], field: str, value: object, otherwise: str) -> str:
    """`Prune: ratio=2 is not allowed; ratio must be a number ≥ 0 and < 1`; otherwise: for a field without bounds."""
    return f"{cls.__name__}: {field}={plain(value)} is not allowed; {field} must be {_bounds(cls, field) or otherwise}"


def _bounds(cls: type[Fields], field: str) -> str:
    """`a number ≥ 0 and < 1`, from the field's own bounds; empty where it has none."""
    info = cls.model_fields.get(field)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(m, at):g}"
        for m in (info.metadata if info else ())
        for at, sign in signs.items()
        if hasattr(m, at)
    ]
    return f"{_kind(info.annotation)} {' and '.join(found)}" if found and info else ""


def _kind(annotation: Any) -> str:
    return {int: "a whole number", float: "a number"}.get(annotation, "made of numbers, where it has a true or false")


def _of_numbers(annotation: Any) -> bool:
    """Is it a number, or are there numbers in it, as in tuple[tuple[str, float], ...]?"""
    return annotation in (int, float) or any(map(_of_numbers, get_args(annotation)))


def _holds_bool(value: object) -> bool:
    if isinstance(value, list | tuple | dict):
        return any(map(_holds_bool, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


@cache
def _fitting(cls: type[Fields]) -> tuple[tuple[str, str], ...]:
    """(field, the field that its name must fit), for those that have one; found once for each step."""
    named = ((field, _annotation(info, Named)) for field, info in cls.model_fields.items())
    return tuple((field, found.fits) for field, found in named if isinstance(found, Named) and found.fits)


def _annotation(field: FieldInfo | None, kind: type) -> object | None:
    return next((m for m in field.metadata if isinstance(m, kind)), None) if field else None
