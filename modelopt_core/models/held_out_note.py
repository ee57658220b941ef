"""A model that was fitted on val must not be judged by what it says about val.

Cross-fitting tells what heads that never saw an example say of it. The difference to the final head's answer is noted
on the model, and whatever predicts takes it back: the val score is the cross-fitted one. The note belongs to the
weights that it was made for, the head's and its members': once the model has been pruned, quantized, trained or written
to, its val score is that of its own answers and is called fitted, and only test is honest. So it is with a loaded
model, since a file does not hold the note (a job's result has it beside, see notes.py).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from modelopt_core.models import activation_points, notes
from modelopt_core.workloads.workload import Workload

NOTE, SPLIT = "held_out", "val"


def note(model: nn.Module, workload: Workload, fitted: Tensor, held_out: Tensor) -> nn.Module:
    """Note on the model what it has learned from val by heart; returns it.

    fitted: logits (n, K) of the model itself on val; held_out: those of the heads that did not see the example.
    """
    change = torch.log_softmax(held_out, dim=1) - torch.log_softmax(fitted, dim=1)
    notes.note(model, NOTE, {"change": change, "data": _told(workload.data_hash), "weights": _told(_weights(model))})
    return model


def by_heart(model: nn.Module, workload: Workload, split: str) -> bool:
    """Is there a head in the model that was fitted to the split, and no note of it as it is now?"""
    fitted = [module for module in model.modules() if getattr(module, "fitted_on", "") == split]
    return any(_change(module, workload) is None for module in fitted)


def taken_back(model: nn.Module, logits: Tensor, workload: Workload, split: str) -> Tensor:
    """The logits (n, K) of a split without what the model has learned from it by heart."""
    change = _change(model, workload)
    return logits if split != SPLIT or change is None else torch.log_softmax(logits, dim=1) + change


def _change(module: nn.Module, workload: Workload) -> Tensor | None:
    """(n, K): what is noted on this very module, as it is now, of this very data."""
    found = notes.noted(module, NOTE)
    if not found or not found.keys() >= {"change", "data", "weights"}:
        return None
    same = torch.equal(found["data"], _told(workload.data_hash))
    return found["change"] if same and torch.equal(found["weights"], _told(_weights(module))) else None


def _weights(module: nn.Module) -> str:
    """sha256 (hex) of all that makes the answers: structure, tensors, and the grids that inputs are rounded to."""
    hasher = hashlib.sha256(f"{module}{activation_points.noted(module)}".encode())
    for name, tensor in module.state_dict().items():
        hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _told(digest: str) -> Tensor:
    """A hash as numbers."""
    return torch.tensor(list(digest.encode()), dtype=torch.uint8)
