"""The JSON Schema of a recipe, shipped as assets/recipe.schema.json: for editors, and to tell a mistake at once.

    python -m modelopt_core.steps.schema      write it again, after a step or a registry changed

Importing PyTorch, which the steps need, takes seconds; the schema has their fields, bounds, names and checks. What it
was made from is compared with the source, so a contributor's new name is never refused by an older schema.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic
from modelopt_core.machine.folders import asset_path
from modelopt_core.machine.registry import Registry
from modelopt_core.steps import checks
from modelopt_core.steps.fields import Fields, Named
from modelopt_core.steps.reading import VERSION, read

NAME = "recipe.schema.json"
KINDS: dict[str, Any] = {"number": float, "integer": int, "boolean": bool, "string": str}
BOUNDS = {
    "minimum": "ge", "exclusiveMinimum": "gt", "maximum": "le", "exclusiveMaximum": "lt",
    "minLength": "min_length", "maxLength": "max_length", "minItems": "min_length", "maxItems": "max_length",
}  # fmt: skip


def check(text: str) -> None:
    """ModelOptError for what is no recipe, as `recipe.from_json` says it, where the schema is up to date."""
    try:
        told = json.loads(asset_path(NAME).read_text("utf-8"))
        steps = shipped(told)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no schema: the steps themselves will tell
        return
    try:
        read(text, steps)
    except ModelOptError:
        if told["x-source"] == source():
            raise


def shipped(schema: Mapping[str, Any]) -> Registry[Any]:
    """The steps that the schema tells of, as far as their fields go."""
    registries: dict[str, Registry[Any]] = {kind: Registry(kind) for kind in schema["x-registries"]}
    for kind, entries in schema["x-registries"].items():
        for name, fits in entries.items():
            registries[kind].register(name, **fits)(len)
    steps: Registry[Any] = Registry("step")
    for one in schema["properties"]["steps"]["items"]["oneOf"]:
        fields = dict(one["properties"])
        name = fields.pop("step")["const"]
        steps.register(name)(partial(_made, name, fields, registries))
    return steps


def current() -> dict[str, Any]:
    """The schema of the steps as they are now."""
    from modelopt_core.steps.registered import STEPS

    registries: dict[str, dict[str, dict[str, object]]] = {}
    steps = [_told(entry.function, registries) for _, entry in sorted(STEPS.items())]
    properties = {"version": {"const": VERSION}, "steps": {"type": "array", "items": {"oneOf": steps}}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of ModelOpt Studio",
        "type": "object",
        "properties": properties,
        "required": ["steps"],
        "additionalProperties": False,
        "x-registries": registries,
        "x-source": source(),
    }


def source() -> str:
    """sha256 of what steps and registries declare, read from the source without running it."""
    told: list[str] = []
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        text = path.read_text("utf-8")
        if ".register(" not in text:
            continue
        lines = text.splitlines()
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.decorator_list:
                fields: list[ast.AnnAssign | ast.expr] = [n for n in node.body if isinstance(n, ast.AnnAssign)]
                for part in [*node.decorator_list, *fields]:
                    told += lines[part.lineno - 1 : part.end_lineno]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _told(step: Any, registries: dict[str, dict[str, dict[str, object]]]) -> dict[str, Any]:
    """One step as JSON Schema; the registries that it names are noted."""
    schema = step.model_json_schema()
    for name, info in step.model_fields.items():
        field = schema["properties"][name]
        for mark in info.metadata:
            if isinstance(mark, AfterValidator | BeforeValidator):
                field.setdefault("x-checks", []).append(mark.func.__name__)
            if isinstance(mark, Named):
                field["x-registry"] = mark.registry.kind
                field |= {"x-fits": mark.fits} if mark.fits else {}
                fits = {n: {mark.fits: list(e[mark.fits])} if mark.fits else {} for n, e in mark.registry.items()}  # type: ignore[call-overload]
                registries[mark.registry.kind] = fits
    properties = {"step": {"const": step.__name__}, **schema["properties"]}
    return {"title": step.__name__, "type": "object", "description": schema["description"].split("\n")[0],
            "properties": properties, "required": ["step"], "additionalProperties": False}  # fmt: skip


def _made(name: str, fields: Mapping[str, Any], registries: Mapping[str, Registry[Any]], **values: Any) -> Fields:
    """The step with these values, as far as its fields go."""
    made: dict[str, Any] = {n: _field(f, registries) for n, f in fields.items()}
    return create_model(name, __base__=Fields, **made)(**values)


def _field(told: Mapping[str, Any], registries: Mapping[str, Registry[Any]]) -> tuple[Any, Any]:
    """Annotation and `Field(...)` of one field."""
    kind = _kind(told)
    if "x-registry" in told:
        kind = Annotated[str, Named(registries[told["x-registry"]], told.get("x-fits", ""))]
    for name in told.get("x-checks", ()):
        mark = BeforeValidator if name == checks.pairs.__name__ else AfterValidator
        kind = Annotated[kind, mark(getattr(checks, name))]
    return kind, Field(told["default"], **{BOUNDS[name]: value for name, value in told.items() if name in BOUNDS})


def _kind(told: Mapping[str, Any]) -> Any:
    if told.get("type") == "array":
        if "prefixItems" in told:
            return tuple[tuple(map(_kind, told["prefixItems"]))]  # type: ignore[misc]
        return tuple[_kind(told["items"]), ...]  # type: ignore[misc]
    if told["type"] == "string" and "enum" in told and "x-registry" not in told:
        return Literal[tuple(told["enum"])]
    return KINDS[told["type"]]


if __name__ == "__main__":
    print(atomic.write(asset_path(NAME), (json.dumps(current(), indent=1, ensure_ascii=False) + "\n").encode()))
