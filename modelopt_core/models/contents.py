"""What a model consists of: told as text that is equal only for equal models, or watched for changes.

Both walk through all that lies in its modules: parameters, buffers, plain attributes, hooks. What has no value that
stays (a closure, a foreign object) ends the walk: of such a model nobody can say that it is still the same.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

PLAIN = frozenset({int, float, complex, bool, str, bytes, NoneType, type(...), range, torch.dtype, torch.device})
PLAIN |= {torch.Size, torch.layout, torch.memory_format}
MAPPINGS, SERIES, SETS = (dict, OrderedDict, defaultdict), (list, tuple, deque), (set, frozenset)
ATOMS = (type, Enum, weakref.ReferenceType, np.generic, BuiltinFunctionType)
ASIDE = frozenset({"_identity", "notes", "note", "training"})  # no model answers otherwise for these in eval mode
SETTLED = ("torch.", "modelopt_core.")  # packages whose classes do not change while a program runs
TRACED = frozenset({"_graph", "_code", "_lineno_map", "_prologue_start", "_tracer_cls", "_tracer_extras", "meta"})
FROZEN = " frozen"
HOOKS = frozenset(name for name in vars(nn.Module()) if "hooks" in name)
EMPTY = object()

Named = tuple[str, Any]


class Unstable(Exception):
    """Says what has no value that stays, and where it lies."""


def told(model: nn.Module, apart: Callable[[Tensor], bool] = lambda _: False) -> Iterator[tuple[str, str]]:
    """(place, text) of everything in the model, in an order that does not depend on how it came about.

    apart: of which tensors the numbers are left out. Raises Unstable.
    """
    seen: dict[int, int] = {}

    def walk(place: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, Tensor | nn.Module):  # one that lies in two places is another model than two equal ones
            if id(value) in seen:
                yield place, f"as {seen[id(value)]}"
                return
            seen[id(value)] = len(seen)
        if isinstance(value, Tensor):
            yield place, _tensor(value, numbers=not apart(value))
            return
        yield place, _itself(place, value)
        for name, inner in _inside(place, value):
            yield from walk(f"{place}.{name}" if place else name, inner)

    return walk("", model)


class Watch:
    """A model as it was; it holds while nothing in it is replaced, added, removed or written to. Raises Unstable.

    The model's contents are kept alive, so that nothing new can pass for them at the same address.
    """

    def __init__(self, model: nn.Module) -> None:
        self.empty: list[Any] = []
        self.filled: list[tuple[Any, list[Named]]] = []  # of mappings
        self.series: list[tuple[Any, tuple[Any, ...]]] = []  # of lists and sets
        self.tensors: list[tuple[Tensor, tuple[Any, ...]]] = []
        self._add("", model, set())

    def holds(self) -> bool:
        """Is everything as it was? Costs a microsecond or two a module."""
        if any(self.empty):
            return False
        for mapping, items in self.filled:
            if len(mapping) - sum(name in mapping for name in ASIDE) != len(items):
                return False
            for name, value in items:
                if mapping.get(name, EMPTY) is not value:
                    return False
        for series, values in self.series:
            if len(series) != len(values) or any(a is not b for a, b in zip(series, values, strict=True)):
                return False
        # As `_state` has it, without a call for each.
        return all((tensor._version, tensor.data_ptr(), tensor.requires_grad) == was for tensor, was in self.tensors)

    def _add(self, place: str, value: Any, seen: set[int]) -> None:
        kind = type(value)
        if kind in PLAIN or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            raise Unstable(f"{place or 'it'} is a NumPy array, which may be written to unseen")
        if isinstance(value, Tensor):
            self.tensors.append((value, _state(value)))
            return
        if isinstance(value, nn.Module | FunctionType | MethodType | BuiltinFunctionType):
            _itself(place, value)
        items: Iterable[Named]
        if kind in MAPPINGS or isinstance(value, nn.Module) or _may_change(value):
            mapping = value if kind in MAPPINGS else vars(value)
            items = [(name, inner) for name, inner in mapping.items() if name not in ASIDE]
            if items:
                self.filled.append((mapping, items))
            else:
                self.empty.append(mapping)
            if isinstance(value, fx.GraphModule):
                items = [(name, inner) for name, inner in items if name not in TRACED]
        else:
            items = _inside(place, value)
            if kind in (list, deque, set):
                self.series.append((value, tuple(value)))
        for name, inner in items:
            self._add(f"{place}.{name}" if place else str(name), inner, seen)


def _may_change(value: Any) -> bool:
    """Data whose fields can be set."""
    return is_dataclass(value) and not isinstance(value, type) and not value.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _state(tensor: Tensor) -> tuple[Any, ...]:
    """What changes when a tensor is written to, gets other numbers, or is frozen. Inference tensors don't tell."""
    if tensor.is_inference():
        raise Unstable("an inference tensor may be written to unseen")
    return tensor._version, tensor.data_ptr(), tensor.requires_grad


def _inside(place: str, value: Any) -> Iterable[Named]:
    """The named things that a value is made of."""
    kind = type(value)
    if kind in PLAIN or isinstance(value, (*ATOMS, np.ndarray)):
        return ()
    if isinstance(value, nn.Module):
        return _of_module(value)
    if kind in MAPPINGS:
        return [(str(key), inner) for key, inner in value.items()]
    if kind in SERIES or hasattr(value, "_fields"):  # the latter are named tuples
        return [(str(at), inner) for at, inner in enumerate(value)]
    if kind in SETS:
        return [("", inner) for inner in sorted(value, key=repr)]
    if isinstance(value, FunctionType):
        return [("defaults", value.__defaults__), ("keywords", value.__kwdefaults__)]
    if isinstance(value, MethodType):
        return [("self", value.__self__)]
    if isinstance(value, functools.partial):
        return [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    raise Unstable(f"{place or 'it'} is a {kind.__qualname__}")


def _of_module(module: nn.Module) -> list[Named]:
    """Its attributes by name; hooks by their order, since their numbers count those of the whole process."""
    found: list[Named] = []
    numbers = {key for name in HOOKS for key in vars(module).get(name, ())}
    order = {key: at for at, key in enumerate(sorted(numbers))}
    traced = TRACED if isinstance(module, fx.GraphModule) else ()  # its code says it all
    for name, value in sorted(vars(module).items()):
        if name in ASIDE or name in traced:
            continue
        if type(value) in MAPPINGS and value:
            if name == "_buffers":
                value = dict(sorted(value.items()))
            elif name in HOOKS:
                value = {order[key]: hook for key, hook in value.items()}
        found.append((name, value))
    return found


def _itself(place: str, value: Any) -> str:
    """A value's text without what is inside of it."""
    kind = type(value)
    if kind in PLAIN or isinstance(value, np.generic):
        return f"{kind.__name__} {value!r}"
    if isinstance(value, fx.GraphModule):
        return f"fx.GraphModule {value.code}"
    if isinstance(value, Enum):
        return f"{kind.__qualname__}.{value.name}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, weakref.ReferenceType):
        return "weak"
    if isinstance(value, MethodType):
        value, kind = value.__func__, FunctionType
    if isinstance(value, FunctionType):
        return f"{_named(place, value)} {_code(value)}"
    if isinstance(value, BuiltinFunctionType):
        if not isinstance(value.__self__, type | type(sys) | NoneType):
            raise Unstable(f"{place} is a method of a {type(value.__self__).__qualname__}")
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, type):
        return _class(place, value)
    names = [str(key) for key in value] if kind in MAPPINGS and all(type(key) in PLAIN for key in value) else ""
    return f"{_class(place, kind)} {len(value) if kind in (*SERIES, *SETS) else names}"


def _tensor(tensor: Tensor, numbers: bool) -> str:
    text = f"{type(tensor).__name__} {tensor.dtype} {tuple(tensor.shape)}"
    if numbers:
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        text = f"{text} {hashlib.sha256(data).hexdigest()}"
    return text + (FROZEN if isinstance(tensor, nn.Parameter) and not tensor.requires_grad else "")


def _named(place: str, value: Any) -> str:
    """Where anybody finds this function or class; Unstable for one that only its owner knows, such as a lambda."""
    module, path = str(value.__module__), str(value.__qualname__)
    found: Any = sys.modules.get(module)
    for name in path.split("."):
        found = getattr(found, name, None)
    if found is not value:
        raise Unstable(f"{place or 'it'} is {path}, which nobody can import")
    return f"{module}.{path}"


def _class(place: str, kind: type) -> str:
    """A class by its name and, where a user may write it anew under the same name, by what its methods do."""
    text = [f"{kind.__module__}.{kind.__qualname__}"]
    for one in kind.__mro__:
        if one is object or one.__module__ in ("builtins", "typing") or f"{one.__module__}.".startswith(SETTLED):
            continue
        for name, value in sorted(vars(one).items()):
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                text.append(f"{name} {_code(function)}")
                own = set(function.__code__.co_freevars) - {"__class__"}
                if own and "<locals>" in one.__qualname__:
                    raise Unstable(f"{place or 'it'} is a {one.__qualname__} that reads {', '.join(sorted(own))}")
            elif type(value) in PLAIN and name not in ("__doc__", "__module__", "__firstlineno__"):
                text.append(f"{name} {value!r}")
    return text[0] if len(text) == 1 else f"{text[0]} {hashlib.sha256(''.join(text).encode()).hexdigest()}"


def _code(function: FunctionType) -> str:
    """What a function does, as text: its instructions and constants, those of the function that it wraps, too."""
    inner = getattr(function, "__wrapped__", None)
    return _instructions(function.__code__) + (_code(inner) if isinstance(inner, FunctionType) else "")


def _instructions(code: CodeType) -> str:
    constants = [_instructions(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_freevars} {constants}"
