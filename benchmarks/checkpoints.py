"""Networks trained from scratch, one per seed, as the zoo's recipe says; kept beside this file (git-ignored)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import modelopt_core as mo
from modelopt_core.machine.digest import digest
from modelopt_core.structure.build import build
from modelopt_core.training.zoo import ZOO

CACHE = Path(__file__).parent / ".cache"


def trained(name: str, seed: int) -> nn.Module:
    """The network of one seed, eval mode: the shipped one where there is one, else from the cache or trained now.

    name: as `mnist/lenet5`.
    """
    how, workload = replace(ZOO[name], seed=seed), mo.workload(name.split("/")[0])
    for shipped, training in ZOO.items():
        if training == how:
            return mo.baseline(*shipped.split("/"))
    key = digest(how, workload.data_hash, torch.__version__)[:16]
    return kept(f"{name.replace('/', '-')}-{seed}-{key}", build(how.spec), lambda: how.train(workload))


def kept(name: str, like: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """The network in the cache under `name`, or the one that is made now, and then kept. like: of its architecture."""
    path = CACHE / f"{name}.safetensors"
    if path.exists():
        model = copy.deepcopy(like)
        model.load_state_dict(load_file(path))
        return model.eval()
    model = make()
    CACHE.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return model
