"""What is known of a model beside its weights: tensors by name, noted on it or on modules in it.

No model file holds them. A copy carries them along, and so does the result of a job, in a file of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError

NOTES = "aside"
SUFFIX = ".aside"  # of the file beside a model's


def note(module: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Note something under a name without a slash; what was noted under it goes."""
    module.__dict__[NOTES] = {**module.__dict__.get(NOTES, {}), name: dict(tensors)}


def noted(module: nn.Module, name: str) -> dict[str, Tensor] | None:
    """What was noted on this module under the name."""
    found: dict[str, Tensor] | None = module.__dict__.get(NOTES, {}).get(name)
    return found


def pack(model: nn.Module) -> bytes:
    """All notes of the model and of modules in it; empty where there are none."""
    tensors = {
        f"{path}/{name}/{key}": tensor.detach().cpu().contiguous()
        for path, module in model.named_modules()
        for name, noted in module.__dict__.get(NOTES, {}).items()
        for key, tensor in noted.items()
    }
    return save(tensors) if tensors else b""


def unpack(model: nn.Module, data: bytes) -> None:
    """Note on the model what `pack` wrote; ModelOptError where the bytes are damaged or another model's."""
    try:
        for place, tensor in load(data).items():
            path, name, key = place.split("/")
            module = model.get_submodule(path)
            note(module, name, {**(noted(module, name) or {}), key: tensor})
    except (SafetensorError, ValueError, AttributeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise ModelOptError(f"what was noted beside the model is damaged ({reason}); make the model again") from error
