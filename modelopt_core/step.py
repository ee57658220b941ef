"""A step is frozen data that says what to do; applying it never touches its input.

One `Field(...)` line per parameter gives its bounds, error text, widget, JSON, JSON Schema and help. A step that
transforms one model derives from `Transform`, one that makes several models one derives from `Combine`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema
from torch import nn

from modelopt_core import identity
from modelopt_core.cache import STORE
from modelopt_core.errors import ModelOptError
from modelopt_core.events import Note, NotesApart, Report, silent
from modelopt_core.knob import Knob as Knob
from modelopt_core.registry import Registry
from modelopt_core.workload import Workload

N = TypeVar("N", int, float)  # what a layer may have of its own

STEPS: Registry[Callable[..., Step]] = Registry("step")


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


class Step(BaseModel):
    """Frozen, hashable, comparable, JSON both ways. Subclasses register in STEPS under their class name."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=False)
    sentence: ClassVar[str] = ""  # what the page says under the title
    formula: ClassVar[str] = ""  # the formula beside it
    shows: ClassVar[Callable[..., Any] | None] = None  # the function to read, where no registry's entry is

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ModelOptError(explain(type(self), error)) from None

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

    def lasts(self, workload: Workload) -> bool:
        """Does it take over a second to apply (a training, a calibration)? Pages run such a step as a job."""
        return False

    def check(self, models: Sequence[nn.Module], workload: Workload) -> None:
        """ModelOptError where it is plain at once that it can't be applied to these; nothing is computed."""

    @property
    def lasting(self) -> Self:
        """What of it takes long: with the result of that at hand, applying the step is quick. All of it, for most."""
        return self

    @property
    def beside(self) -> Self | None:
        """What pages make along with it and always show beside it: the same without what it is for. None for most."""
        return None

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
        return [name for name, entry in named.registry.items() if values.get(named.fits) in entry[named.fits]]  # type: ignore[operator]

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
        for field, info in type(self).model_fields.items():
            named = _annotation(info, Named)
            if isinstance(named, Named) and named.fits and values[field] not in (fit := self.choices(field, values)):
                raise ModelOptError(
                    f"{self.name}: {field}={values[field]} does not go with {named.fits}={values[named.fits]}; "
                    f"choose from {', '.join(fit)}"
                )
        return self

    def changed(self, **values: Any) -> Self:
        """The same step with other values, validated again."""
        return type(self)(**{**self.model_dump(), **values})

    def key(self, models: Sequence[nn.Module], workload: Workload, seed: int = 0) -> str:
        """sha256 of the result: of the inputs' keys, this step as JSON, the data, the seed and the code version."""
        recipe = f"{self.name}{self.model_dump_json()}"
        keys = [identity.key(model) for model in models]
        return identity.digest(*keys, recipe, workload.data_hash, seed, identity.CODE_VERSION)


class Transform(Step):
    """A step from one model to another."""

    def apply(self, model: nn.Module, workload: Workload, *, seed: int = 0, report: Report = silent) -> nn.Module:
        """A new model in eval mode; `model` is bit-identical to before. The same seed gives the same result.

        Results are kept: the same step on the same model is not computed twice. Treat the result as read-only, or copy
        it; one that was written to is noticed and made again. Notes are reported every time, with a kept result too.
        """

        def make(generator: torch.Generator, heard: Report) -> nn.Module:
            return self.transform(identity.clone(model), workload, generator, heard)

        return _kept(self.key([model], workload, seed), make, seed, report)

    @abstractmethod
    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        """The technique itself. `model` is a private copy: change it or return another. Runs without gradients."""


class Combine(Step):
    """A step from several models to one."""

    @abstractmethod
    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        """The technique itself, over private copies of the pool."""

    def apply(
        self, models: Sequence[nn.Module], workload: Workload, *, seed: int = 0, report: Report = silent
    ) -> nn.Module:
        """One new model in eval mode; the pool is bit-identical to before. Kept and seeded as a Transform's result."""

        def make(generator: torch.Generator, heard: Report) -> nn.Module:
            return self.combine([identity.clone(model) for model in models], workload, generator, heard)

        return _kept(self.key(models, workload, seed), make, seed, report)


def _kept(key: str, make: Callable[[torch.Generator, Report], nn.Module], seed: int, report: Report) -> nn.Module:
    """The result with this key, made if it is not at hand; its notes are reported in either case."""

    def stamped() -> nn.Module:
        heard = NotesApart(report)
        with torch.no_grad():
            result = make(torch.Generator().manual_seed(seed), heard)
        result.__dict__["notes"] = tuple(heard.notes)
        return identity.stamp(result.eval(), key)

    result = STORE.get(("model", key), stamped, _size_bytes, identity.intact)
    for note in result.__dict__.get("notes", ()):
        report(note)
    return result


def keep(model: nn.Module, key: str, notes: Sequence[Note] = ()) -> None:
    """Put a result that was made elsewhere, as by a job, where `Transform.apply` looks before it computes.

    key: what `step.key(…)` says of it. notes: what was reported when it was made.
    """
    model.__dict__["notes"] = tuple(notes)
    STORE.get(("model", key), lambda: identity.stamp(model.eval(), key), _size_bytes, identity.intact)


def kept(key: str) -> bool:
    """Is the result with this key at hand, so that `Transform.apply` computes nothing?"""
    found = STORE.peek(("model", key))
    return found is not None and identity.intact(found)


def pairs(value: Any) -> Any:
    """A mapping as (name, value) pairs, before a field of pairs is checked."""
    return tuple(value.items()) if isinstance(value, dict) else value


def once_each(value: tuple[tuple[str, N], ...], twice: str) -> tuple[tuple[str, N], ...]:
    """(name, value) pairs in order of names; a name that is there twice is an error that says `twice`."""
    if len({name for name, _ in value}) < len(value):
        raise ModelOptError(twice)
    return tuple(sorted(value))


def explain(cls: type[Step], error: ValidationError) -> str:
    """One line for a person: which field, what was given, what is allowed."""
    lines = []
    for problem in error.errors():
        field = str(problem["loc"][0]) if problem["loc"] else cls.__name__
        if problem["type"] == "extra_forbidden":
            lines.append(f"{cls.__name__} has no field {field!r}; its fields are {', '.join(cls.model_fields)}")
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))
        else:
            allowed = _bounds(cls, field) or problem["msg"].removeprefix("Input should be ")
            lines.append(
                f"{cls.__name__}: {field}={str(problem['input'])[:80]} is not allowed; {field} must be {allowed}"
            )
    return "; ".join(lines)


def _bounds(cls: type[Step], field: str) -> str:
    """`a number ≥ 0 and < 1`, from the field's own bounds; empty where it has none."""
    info = cls.model_fields.get(field)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(m, at):g}"
        for m in (info.metadata if info else ())
        for at, sign in signs.items()
        if hasattr(m, at)
    ]
    if not found or info is None:
        return ""
    return f"a{' whole' if info.annotation is int else ''} number {' and '.join(found)}"


def _annotation(field: FieldInfo | None, kind: type) -> object | None:
    return next((m for m in field.metadata if isinstance(m, kind)), None) if field else None


def _size_bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
