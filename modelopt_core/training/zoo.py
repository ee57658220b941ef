"""Baselines with shipped weights: how each was trained, where its weights lie, and what is checked before one is used.

`assets/zoo/index.json` says for every file its sha256, the recipe it came from and the scores measured with it.
`modelopt train-zoo NAME` makes a file again; on the same kind of machine it is the same file, bit for bit.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from modelopt_core.errors import DataMissing, ModelOptError, unknown
from modelopt_core.machine import atomic
from modelopt_core.machine.events import Report, silent
from modelopt_core.machine.folders import asset_path
from modelopt_core.models import identity
from modelopt_core.structure.build import build
from modelopt_core.training.loop import EVALUATION_BATCH, evaluate
from modelopt_core.training.zoo_recipes import ZOO as ZOO
from modelopt_core.training.zoo_recipes import Training as Training
from modelopt_core.workloads.workload import Workload, workload

_loaded: dict[str, nn.Module] = {}
_lock = threading.Lock()


def baseline(workload_name: str, model_name: str) -> nn.Module:
    """The trained model, in eval mode, a fresh copy at every call; its identity is the sha256 of its weights file.

    Raises ModelOptError for an unknown name, DataMissing when the file is absent, damaged or not what its spec says.
    """
    name = _known(f"{workload_name}/{model_name}")
    with _lock:
        if name not in _loaded:
            _loaded[name] = _load(name)
        return identity.clone(_loaded[name])


def forget() -> None:
    """Let go of the weights that were read; the next call reads them again."""
    with _lock:
        _loaded.clear()


def zoo_index() -> dict[str, dict[str, Any]]:
    """The rows of `assets/zoo/index.json` by name: sha256, spec, training, scores. Raises DataMissing."""
    path = asset_path("zoo", "index.json")
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataMissing(f"{path} cannot be read ({error}); install again or run `modelopt train-zoo NAME`") from error


def train_zoo(name: str, report: Report = silent) -> Path:
    """Train the baseline again, write its weights file and its row of the index; returns the file.

    The weights are stored as float16 when that changes no answer on val, else as float32. Runs on one thread, so that
    the result does not depend on the number of cores.
    """
    training = ZOO[_known(name)]
    data = training.data(workload(name.split("/")[0]))
    with _one_thread():
        model = training.train(data, report)
        model, dtype = _stored(model, data)
        scores = {split: evaluate(model, data, data.split(split))[0] for split in ("val", "test")}
    encoded = save_tensors({key: _as(tensor, dtype) for key, tensor in model.state_dict().items()})
    path = atomic.write(_weights_path(name), encoded)
    row = {
        "sha256": hashlib.sha256(encoded).hexdigest(),
        "size_bytes": len(encoded),
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.parameters()),
        **{split: round(score, 6) for split, score in scores.items()},
        "data_hash": data.data_hash,
        "training": asdict(training),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    index = zoo_index() if asset_path("zoo", "index.json").exists() else {}
    rows = dict(sorted({**index, name: row}.items()))
    atomic.write(asset_path("zoo", "index.json"), (json.dumps(rows, indent=1) + "\n").encode())
    with _lock:
        _loaded.pop(name, None)
    return path


def _known(name: str) -> str:
    """`name`, or the error that lists what is there."""
    if name in ZOO:
        return name
    workloads = {known.split("/")[0] for known in ZOO}
    given_workload, _, given_model = name.partition("/")
    if given_workload not in workloads:
        raise unknown("workload", given_workload, workloads)
    models = (known.split("/")[1] for known in ZOO if known.startswith(f"{given_workload}/"))
    raise unknown(f"{given_workload} model", given_model, models)


def _weights_path(name: str) -> Path:
    return asset_path("zoo", f"{name.replace('/', '-')}.safetensors")


def _load(name: str) -> nn.Module:
    """Read, check and build: sha256, keys, shapes, dtypes, finiteness."""
    path, mend = _weights_path(name), f"run `modelopt train-zoo {name}`"
    row = zoo_index().get(name)
    if not isinstance(row, dict) or not isinstance(row.get("sha256"), str):
        raise DataMissing(f"{name} has no row in {path.with_name('index.json')}; {mend}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataMissing(f"weights {path} cannot be read ({error.strerror}); {mend}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != row["sha256"]:
        raise DataMissing(f"weights {path} are damaged (sha256 {found[:12]}…, not {row['sha256'][:12]}…); {mend}")
    model = build(ZOO[name].spec)
    try:
        model.load_state_dict(_checked(load_tensors(data), model.state_dict()))
    except (SafetensorError, ValueError) as error:
        raise DataMissing(f"weights {path} do not fit {name}: {error}; {mend}") from error
    return identity.stamp(model.requires_grad_(True), found)


def _checked(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the dtypes of `expected`, or a ModelOptError that names the first one that does not fit."""
    if wrong := sorted(tensors.keys() ^ expected.keys()):
        raise ModelOptError(f"tensor {wrong[0]!r} is {'missing' if wrong[0] in expected else 'not part of the model'}")
    for key, tensor in tensors.items():
        want = expected[key]
        if tensor.shape != want.shape:
            raise ModelOptError(f"tensor {key!r} has shape {tuple(tensor.shape)}, the model {tuple(want.shape)}")
        if tensor.dtype not in (want.dtype, torch.float16) or tensor.is_floating_point() != want.is_floating_point():
            raise ModelOptError(f"tensor {key!r} is {tensor.dtype}, the model {want.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise ModelOptError(f"tensor {key!r} holds values that are not finite")
    return {key: tensor.to(expected[key].dtype) for key, tensor in tensors.items()}


def _stored(model: nn.Module, data: Workload) -> tuple[nn.Module, torch.dtype]:
    """The model as it will come back from disk, and the dtype it is stored in."""
    half = copy.deepcopy(model)
    half.load_state_dict({key: _as(tensor, torch.float16) for key, tensor in half.state_dict().items()})
    if torch.equal(_answers(half, data), _answers(model, data)):
        return half, torch.float16
    return model, torch.float32


def _answers(model: nn.Module, data: Workload) -> Tensor:
    with torch.no_grad():
        return torch.cat([data.decode(data.forward(model, x)) for x, _ in data.val.batches(EVALUATION_BATCH)])


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
