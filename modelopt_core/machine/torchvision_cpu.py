"""Lets torchvision's CUDA build be imported beside a CPU-only torch.

The default torchvision wheel for Linux is built for CUDA. Beside a CPU torch its compiled operators do not load, and
the import fails on a schema that is not there: `operator torchvision::nms does not exist`. Data sets, transforms and
models need none of these operators, so declaring the two schemas is enough; calling one still fails, as it should.
"""

from __future__ import annotations

import threading
from types import ModuleType

import torch

_NEEDED = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: list[torch.library.Library] = []  # a schema lives as long as its Library object
_lock = threading.Lock()


def import_torchvision() -> ModuleType:
    """The torchvision module; the missing schemas are declared only where the real operators did not load."""
    with _lock:
        try:
            import torchvision
        except RuntimeError as error:
            if "torchvision::nms" not in str(error) or _library:
                raise
            library = torch.library.Library("torchvision", "DEF")
            for operator in _NEEDED:
                library.define(operator + _SCHEMA)
            _library.append(library)
            import torchvision
    return torchvision
