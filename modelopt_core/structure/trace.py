"""A model's graph, safely beside other threads.

While torch.fx traces, it replaces `nn.Module.__call__` and `__getattr__` for the whole process. A model that runs in
another thread at that moment must not land in our graph: calls from other threads go straight through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from modelopt_core.errors import ModelOptError

_lock = threading.Lock()  # one tracer at a time: each restores what it found


class _Tracer(fx.Tracer):
    """Sees only what its own thread does."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.MultiheadAttention) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(model: nn.Module) -> fx.Graph:
    """The model's graph; control flow that depends on data is a ModelOptError with the remedy."""
    try:
        with _lock:
            return _Tracer().trace(model)
    except Exception as error:
        name = getattr(model, "called", type(model).__name__)
        if getattr(model, "skips", False):
            raise ModelOptError(f"Prune cannot trace {name}; put Prune before {name}") from None
        why = str(error).split("\n", 1)[0][:120]
        raise ModelOptError(
            f"channels of {name} can't be traced ({why}); prune its parts before building {name}"
        ) from None
