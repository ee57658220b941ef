"""A model that was fitted on val must not be judged by what it says about val.

Cross-fitting tells what heads that never saw an example say of it. The difference to the final head's answer is noted
on the model, and whatever predicts takes it back: the val score is the cross-fitted one, also after the model has been
pruned or quantized. A file does not hold the note: what a loaded model scores on val is called fitted, and only test is
honest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelopt_core.workload import Workload

NOTE, SPLIT = "held_out", "val"


def note(model: nn.Module, workload: Workload, fitted: Tensor, held_out: Tensor) -> nn.Module:
    """Note on the model what it has learned from val by heart; returns it.

    fitted: logits (n, K) of the model itself on val; held_out: those of the heads that did not see the example.
    """
    model.__dict__[NOTE] = (workload.data_hash, torch.log_softmax(held_out, dim=1) - torch.log_softmax(fitted, dim=1))
    return model


def by_heart(model: nn.Module, workload: Workload, split: str) -> bool:
    """Is there a head in the model that was fitted to the split, and no note that takes back what it has learned?"""
    fitted = [module for module in model.modules() if getattr(module, "fitted_on", "") == split]
    return any(module.__dict__.get(NOTE, ("",))[0] != workload.data_hash for module in fitted)


def taken_back(model: nn.Module, logits: Tensor, workload: Workload, split: str) -> Tensor:
    """The logits (n, K) of a split without what the model has learned from it by heart."""
    data_hash, change = model.__dict__.get(NOTE, (None, None))
    if split != SPLIT or data_hash != workload.data_hash:
        return logits
    return torch.log_softmax(logits, dim=1) + change
