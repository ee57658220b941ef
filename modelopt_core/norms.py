"""Batch norms that know their inputs again: the re-estimation that several techniques need."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from modelopt_core.train import EVALUATION_BATCH
from modelopt_core.workload import Workload


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms whose averages `reestimate_norms` would make anew."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def reestimate_norms(model: nn.Module, workload: Workload, examples: int = 2000) -> nn.Module:
    """A copy whose batch norms know the activations that reach them now: mean and variance over train examples.

    After pruning or quantization the layers before a norm put out other statistics than those it remembers; most of the
    collapse is that, and it costs no training. A model without batch norm comes back as an equal copy.
    Source: Sun et al., Hybrid 8-bit Training and Inference, NeurIPS 2019, sec. 3.3 (batch norm re-tuning).
    """
    model = copy.deepcopy(model).eval()
    norms = norms_of(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if not norms:
        return model
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    n = len(workload.train)
    inputs = workload.train.take(torch.arange(0, n, max(1, math.ceil(n / examples))))
    with torch.no_grad():
        for batch in inputs.to(device).split(EVALUATION_BATCH):
            if len(batch) > 1:  # one example has no variance
                workload.forward(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()
