"""Who a model is: one sha256 that costs nothing per slider move.

A baseline is known by its weights file, a result by its input's key and the step that made it; hashing millions of
weights at every move would cost more than the measurement. The key is trusted only while the tensors are the ones that
were stamped, at the same autograd version: a model that was trained or edited since is hashed again.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Any

from torch import nn

from modelopt_core.spec import spec_of

CODE_VERSION = "3"  # raise when a step's meaning changes, so that stored results are not mistaken for new ones


def digest(*parts: object) -> str:
    """sha256 (hex) of the parts' text, unambiguous about where each ends."""
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def key(model: nn.Module) -> str:
    """sha256 (hex) that stands for this model: the stamped one while it holds, else a hash of structure and weights."""
    noted = model.__dict__.get("_identity")
    if noted is not None and noted[1] == _fingerprint(model):
        return str(noted[0])
    hasher = hashlib.sha256(digest(type(model).__qualname__, model, spec_of(model)).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        frozen = "frozen" if isinstance(tensor, nn.Parameter) and not tensor.requires_grad else ""
        hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}{frozen}".encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def stamp(model: nn.Module, value: str) -> nn.Module:
    """Note `value` as the model's key, valid until a tensor of it changes; returns the model."""
    model.__dict__["_identity"] = (value, _fingerprint(model))
    return model


def intact(model: nn.Module) -> bool:
    """Is the model still the one that was stamped?"""
    noted = model.__dict__.get("_identity")
    return noted is not None and noted[1] == _fingerprint(model)


def clone(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode that is the same model: it carries the same key."""
    return stamp(copy.deepcopy(model).eval(), key(model))


def _fingerprint(model: nn.Module) -> tuple[Any, ...]:
    tensors = [*model.parameters(), *model.buffers()]
    return (tuple((id(t), t._version, t.requires_grad) for t in tensors), tuple(id(m) for m in model.modules()))
