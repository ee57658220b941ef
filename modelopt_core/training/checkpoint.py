"""Where a training stands after an epoch: all that the rest of it depends on, as bytes, without pickle.

Weights, the optimizer's moments, the state of the random numbers and the best epoch so far go into one safetensors
file; a training that goes on from it ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError


def pack(
    model: nn.Module,
    update: torch.optim.Optimizer,
    generator: torch.Generator,
    best: Mapping[str, Tensor],
    numbers: Sequence[float],
) -> bytes:
    """best: weights of the best epoch; numbers: whatever the loop counts."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    moments = update.state_dict()["state"]  # {0: {"exp_avg": …}, …} by the parameter's place
    tensors |= {f"moment.{i}.{name}": value for i, entry in moments.items() for name, value in entry.items()}
    tensors |= {"generator": generator.get_state(), "numbers": torch.tensor(numbers, dtype=torch.float64)}
    return save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})


def unpack(
    data: bytes, model: nn.Module, update: torch.optim.Optimizer, generator: torch.Generator
) -> tuple[dict[str, Tensor], list[float]]:
    """Set model, optimizer and generator to where they were; returns best and numbers."""
    try:
        tensors = load(data)
        moments: dict[int, dict[str, Tensor]] = {}
        for key in (key for key in tensors if key.startswith("moment.")):
            _, at, name = key.split(".", 2)
            moments.setdefault(int(at), {})[name] = tensors[key]
        model.load_state_dict(_part(tensors, "model."))
        update.load_state_dict({"state": moments, "param_groups": update.state_dict()["param_groups"]})
        generator.set_state(tensors["generator"])
        return _part(tensors, "best."), tensors["numbers"].tolist()
    except (SafetensorError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise ModelOptError(
            f"the checkpoint of this training is damaged ({reason}); delete it or start again"
        ) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
