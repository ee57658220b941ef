"""Teacher and student side by side in the training loop: (1 − α) · the labels' loss + α · a loss of LOSSES.

The teacher's logits on train are computed once and kept; its features, where a loss wants some, once per batch. It runs
in eval mode and without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import cores
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.digest import CODE_VERSION, digest
from modelopt_core.models import identity
from modelopt_core.steps.distill.losses import LOSSES, NOTHING, LossContext
from modelopt_core.structure.build import initialise
from modelopt_core.structure.channels import CONVOLUTIONS
from modelopt_core.training.loop import EVALUATION_BATCH, Objective
from modelopt_core.workloads.workload import Outputs, Workload

LISTED = 12  # layers that an error names


def logits_on_train(teacher: nn.Module, workload: Workload) -> Tensor:
    """(n, m, K): what the teacher says about the n train examples, m answers each; computed once and kept."""

    def make() -> Tensor:
        said = []
        with torch.no_grad():
            for inputs, _ in workload.train.batches(EVALUATION_BATCH):
                cores.pause()
                said.append(workload.forward(teacher, inputs).logits)
        logits = torch.cat(said).clone()
        return logits.reshape(len(workload.train), -1, logits.shape[-1])

    key = ("teacher", identity.key(teacher), workload.data_hash, CODE_VERSION)
    return STORE.get(key, make, lambda t: t.numel() * t.element_size())


def objective(
    name: str,
    teacher: nn.Module,
    student: nn.Module,
    workload: Workload,
    *,
    alpha: float,
    temperature: float,
    layers: tuple[str, str],
    generator: torch.Generator,
) -> Objective:
    """What the student minimises. layers: the student's and the teacher's, empty for the usual ones of that loss.

    Raises ModelOptError for layers that do not exist or whose features cannot be compared.
    """
    entry = LOSSES[name]
    logits = logits_on_train(teacher, workload)
    tapped = "student_features" in entry["needs"]  # type: ignore[operator]
    learned: nn.Module = nn.Identity()
    if tapped:
        layers = (layer_of(student, layers[0], name), layer_of(teacher, layers[1], name))
        learned = _projection(student, teacher, workload, layers, bool(entry["projects"]), generator)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, at: Tensor) -> Tensor:
        own, theirs = NOTHING, NOTHING
        if tapped:
            said, own = features(model, layers[0], inputs, workload)
            with torch.no_grad():
                theirs = features(teacher, layers[1], inputs, workload)[1]
            own = learned(own.movedim(1, -1)).movedim(-1, 1)
            theirs = pooled(theirs, own)
        else:
            said = workload.forward(model, inputs)
        told = logits[at].flatten(0, 1)  # (B, K)
        context = LossContext(said.logits, told, targets.flatten(), own, theirs, temperature)
        return (1 - alpha) * workload.loss(said, targets) + alpha * entry(context)

    return Objective(loss, digest(identity.key(teacher), name, alpha, temperature, *layers), learned)


def layer_of(model: nn.Module, name: str, loss: str) -> str:
    """`name` if the model has such a layer; without one the last convolution, for hints else the last hidden layer."""
    modules = dict(model.named_modules())
    if name and name in modules:
        return name
    weighted = [n for n, m in modules.items() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
    known = ", ".join(islice(weighted, LISTED)) + (", …" if len(weighted) > LISTED else "")
    if name:
        raise ModelOptError(f"{type(model).__name__} has no layer {name!r}; choose from {known}")
    spatial = [n for n in weighted if isinstance(modules[n], CONVOLUTIONS)]
    usual = spatial[-1:] if loss == "attention" else weighted[-2:-1]
    if not usual:
        raise ModelOptError(
            f"{type(model).__name__} has no layer for {loss}; name one, or choose kl, mse_logits or dkd"
        )
    return usual[0]


def features(model: nn.Module, layer: str, inputs: Tensor, workload: Workload) -> tuple[Outputs, Tensor]:
    """(what the model says, what its layer put out (B, C, …)), in one forward pass."""
    with _tap(model.get_submodule(layer)) as seen:
        said = workload.forward(model, inputs)
    if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].dim() < 2:
        raise ModelOptError(f"layer {layer!r} of {type(model).__name__} gives no single tensor; choose another layer")
    return said, seen[0]


def pooled(theirs: Tensor, own: Tensor) -> Tensor:
    """The teacher's features (B, C, …) averaged down, or repeated, to the student's positions (B, C', …)."""
    if theirs.shape[2:] == own.shape[2:]:
        return theirs
    pool = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}
    size: Any = own.shape[2:]
    return pool[own.dim()](theirs, size)


def _projection(
    student: nn.Module,
    teacher: nn.Module,
    workload: Workload,
    layers: tuple[str, str],
    projects: bool,
    generator: torch.Generator,
) -> nn.Module:
    """The map from the student's channels to the teacher's, drawn from the generator; the identity where none is."""
    with torch.no_grad():
        own, theirs = (
            features(model, layer, workload.example, workload)[1]
            for model, layer in zip((student, teacher), layers, strict=True)
        )
    if own.dim() != theirs.dim() or (not projects and own.dim() < 3):
        asked = "as many axes" if projects else "positions, (B, C, …),"
        raise ModelOptError(
            f"layers {layers[0]!r} {tuple(own.shape)} and {layers[1]!r} {tuple(theirs.shape)} can't be compared; "
            f"choose two whose outputs have {asked} such as convolutions"
        )
    if not projects:
        return nn.Identity()
    projection = nn.Linear(own.shape[1], theirs.shape[1])
    initialise(projection, generator)
    return projection


@contextmanager
def _tap(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer puts out inside the block; a copy goes on, since what follows may write in place."""
    seen: list[Tensor] = []

    def note(_: nn.Module, __: Any, output: Any) -> Any:
        seen.append(output)
        return output.clone() if isinstance(output, Tensor) else output

    handle = layer.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
