"""Optimize models and combine them, and measure what it costs.

>>> import modelopt_core as mo
>>> w = mo.workload("digits")
>>> model = mo.baseline("digits", "cnn")
>>> small = mo.Prune(ratio=0.5).apply(model, w)
>>> mo.measure(small, w).macs < mo.measure(model, w).macs
True

The names live in api.py and are loaded at first use: a command line that only opens the app need not wait for PyTorch.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelopt_core.api import *  # noqa: F403

__version__ = "0.1.0"


class _Package(ModuleType):
    """Public names come before submodules of the same name: `mo.measure` is the function, as its users expect."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        from modelopt_core import api

        if name in api.__all__:
            return getattr(api, name)
        raise AttributeError(f"modelopt_core has no {name!r}; choose from {', '.join(api.__all__)}")

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in ("layers", "measure", "workload")):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        from modelopt_core import api

        return [*super().__dir__(), *api.__all__]


sys.modules[__name__].__class__ = _Package
