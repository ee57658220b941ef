"""Who a model is: one sha256 that costs nothing per slider move.

A baseline is known by its weights file, a result by its input's key and the step that made it; hashing millions of
weights at every move would cost more than the measurement. The key is trusted only while the model is as it was when it
was stamped: one that was trained or edited since, or whose attributes or hooks changed, is read again. Of a model that
holds something without a value that stays, such as a closure, no two keys are equal, and nothing is kept.
"""

from __future__ import annotations

import copy
import itertools
import os
import time
from typing import Any

from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import Unkept
from modelopt_core.machine.digest import digest
from modelopt_core.models import contents
from modelopt_core.models.contents import Unstable, Watch
from modelopt_core.models.spec import spec_of

_calls = itertools.count()


class _Stamp:
    """A key, and the model as it was when it got it. A copy of the model is another one, and gets no stamp by it."""

    def __init__(self, value: str, watch: Watch | None) -> None:
        self.value, self.watch = value, watch

    def __deepcopy__(self, memo: object) -> _Stamp:
        return _Stamp(self.value, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Stamp, (self.value, None)


def key(model: nn.Module) -> str:
    """sha256 (hex) that stands for this model: the stamped one while it holds, else a hash of all that it consists of.

    An `Unkept` one, another at every call, where there is no telling whether the model stays what it is.
    """
    if not isinstance(model, nn.Module):
        raise ModelOptError(f"a {type(model).__name__} is no model; give a network, an nn.Module such as mo.baseline's")
    if intact(model):
        return str(model.__dict__["_identity"].value)
    try:
        return digest(*(text for line in contents.told(model) for text in line))
    except Exception:  # whatever a foreign object provokes
        return Unkept(digest("unkept", os.getpid(), time.time_ns(), next(_calls)))


def unstable(model: nn.Module) -> str:
    """What in the model has no value that stays; empty where nothing is without."""
    try:
        for _ in contents.told(model, apart=lambda _: True):
            pass
    except Exception as error:
        return str(error) if isinstance(error, Unstable) else f"{type(model).__name__} cannot be read ({error})"
    return ""


def form(model: nn.Module) -> dict[str, str]:
    """Place -> text of all that the model consists of beside the numbers in its state dict. Raises Unstable."""
    stored: set[int] = set()
    for module in model.modules():
        stored |= {id(tensor) for tensor in module._parameters.values()}
        stored |= {id(t) for name, t in module._buffers.items() if name not in module._non_persistent_buffers_set}
    return dict(contents.told(model, apart=lambda tensor: id(tensor) in stored))


def stamp(model: nn.Module, value: str) -> nn.Module:
    """Note `value` as the model's key, valid until something in it changes; returns the model."""
    model.__dict__.pop("_identity", None)
    try:
        watch = Watch(model)
    except Exception:  # whatever a foreign object provokes
        watch = None
    model.__dict__["_identity"] = _Stamp(str(value), watch)
    return model


def intact(model: nn.Module) -> bool:
    """Is the model still the one that was stamped?"""
    noted = model.__dict__.get("_identity")
    return noted is not None and noted.watch is not None and noted.watch.holds()


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that keeps results of its last call, in eval mode; ModelOptError for no such thing.

    It has no stamp; see `clone`.
    """
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        reason = str(error).split("\n")[0][:120]
        raise ModelOptError(f"{type(model).__name__} cannot be copied ({reason}); take out what can't be") from error


def apart(model: nn.Module) -> nn.Module:
    """The model in eval mode, to be run: itself where running it leaves no trace, else a copy."""
    bare = spec_of(model) is not None and not any(m.training or m._forward_hooks for m in model.modules())
    return model if bare else copied(model)


def clone(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode that is the same model: it carries the same key."""
    return stamp(copied(model), key(model))
