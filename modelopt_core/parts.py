"""Workloads made of another: one subtask of it, or the same task with half of the inputs damaged.

Each is a workload like any other, with data, labels and a score of its own: a stage's model is trained on it by the
zoo's recipe and compressed by every step. Damage is simulated, and the workload says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modelopt_core import identity
from modelopt_core.cache import STORE
from modelopt_core.errors import ModelOptError
from modelopt_core.workload import SPLITS, Classification, Outputs, Split, Workload

MOST = 10_000  # damaged examples of a split: enough for a small model, and memory is bounded
SHARE = 0.5  # of the examples that are damaged
NAMED = {"train": 0, "val": 1, "test": 2}  # seeds: the same damage in every process


@dataclass(frozen=True, eq=False, kw_only=True)
class Damaged(Classification):
    """The same task with half of the inputs damaged. whole: where none is, the same examples first in every split.

    harmed: split -> (n,) bool.
    """

    whole: Workload
    harmed: Mapping[str, Tensor]

    def sound(self, split: str) -> Tensor:
        """(n, *shape): the inputs as they were."""
        return self.whole.split(split).inputs[: len(self.harmed[split])]


@dataclass(frozen=True, eq=False)
class Repair(Workload):
    """Inputs to be made as they were: targets are images (n, *shape) in [0, 1], outputs their pixels in one row."""

    def decode(self, outputs: Outputs) -> Tensor:
        """(N, pixels) in [0, 1]."""
        return outputs.logits.clamp(0, 1)

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Mean squared error of a pixel.

        Source: Vincent et al., Extracting and Composing Robust Features with Denoising Autoencoders, ICML 2008.
        """
        return torch.nn.functional.mse_loss(outputs.logits, targets.flatten(1))

    def example_scores(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """1 − the mean error of a pixel: (N,)."""
        return 1 - (self.decode(outputs) - targets.flatten(1)).abs().mean(dim=1)

    def confidence(self, outputs: Outputs) -> Tensor:
        """(N,): an image says nothing about how sure it is."""
        return torch.ones(len(outputs.logits))


def part(workload: Workload, name: str) -> Workload:
    """One subtask of a workload as a workload of its own: `groups`, `quality`, `repair`, `experts/1` for the first.

    ModelOptError for what the workload does not declare.
    """
    task, _, number = name.partition("/")
    found = workload.subtask(task)
    if found.kind == "judge":
        return _judged(damaged(workload), found.labels, name)
    if found.kind == "map":
        return _mapped(damaged(workload), name)
    if found.kind == "route":
        group = _group_of(found.groups)
        splits = {s: replace(workload.split(s), targets=group[workload.split(s).targets]) for s in SPLITS}
        return _classes(workload, name, found.labels, splits)
    if not found.groups:
        return workload
    if number not in (numbers := [str(i + 1) for i in range(len(found.groups))]):
        raise ModelOptError(
            f"{workload.name} has no part {name!r}; choose from {', '.join(f'{task}/{n}' for n in numbers)}"
        )
    labels = torch.tensor(found.groups[int(number) - 1])
    return _classes(
        workload,
        name,
        tuple(workload.labels[i] for i in labels.tolist()),
        {s: _within(workload.split(s), labels) for s in SPLITS},
    )


def damaged(workload: Workload) -> Damaged:
    """The workload with half of its inputs damaged as it declares; the same damage at every call."""
    if isinstance(workload, Damaged):
        return workload
    if workload.damage is None:
        raise ModelOptError(f"{workload.name} does not say how its inputs are damaged; use digits or mnist")
    return STORE.get(("damaged", workload.data_hash), lambda: _damage(workload), _size_bytes)


def _damage(workload: Workload) -> Damaged:
    splits, harmed = {}, {}
    for name in SPLITS:
        split, draw = workload.split(name), torch.Generator().manual_seed(NAMED[name])
        n = min(len(split), MOST)
        was = split.inputs[:n]
        bad = torch.rand(n, generator=draw) < SHARE
        assert workload.damage is not None
        noisy = workload.damage(was, draw)
        inputs = torch.where(bad.reshape(-1, *[1] * (was.dim() - 1)), noisy, was)
        splits[name], harmed[name] = Split(inputs, split.targets[:n], split.ids[:n]), bad
    fields = {name: getattr(workload, name) for name in workload.__dataclass_fields__}
    return Damaged(
        **{
            **fields,
            **splits,
            "title": f"{workload.title}, half of them damaged (simulated)",
            "note": f"{workload.note} Half of the inputs are damaged: simulated.",
            "made": f"mo.damaged({workload.call})",
            "data_hash": identity.digest("damaged", workload.data_hash, SHARE, MOST),
            "show": lambda split, i: splits[split].inputs[i, 0].numpy(),
        },
        whole=workload,
        harmed=harmed,
    )


def _judged(workload: Damaged, labels: tuple[str, ...], name: str) -> Classification:
    splits = {s: replace(workload.split(s), targets=workload.harmed[s].long()) for s in SPLITS}
    return _classes(workload, name, labels, splits)


def _mapped(workload: Damaged, name: str) -> Repair:
    """Damaged inputs and what they were. Those to train on come sound: a recipe damages them anew in every epoch."""
    assert workload.damage is not None
    splits = {}
    for split in SPLITS:
        sound, draw = workload.sound(split), torch.Generator().manual_seed(NAMED[split])
        given = sound if split == "train" else workload.damage(sound, draw)
        splits[split] = replace(workload.split(split), inputs=given, targets=sound)
    kept = {key: getattr(workload, key) for key in Repair.__dataclass_fields__}
    return Repair(
        **{
            **kept,
            **splits,
            "name": f"{workload.name}/{name}",
            "title": f"{workload.title}: {name}",
            "metric": "likeness",
            "labels": (),
            "chance": 1 - float((splits["val"].inputs - workload.sound("val")).abs().mean()),
            "data_hash": identity.digest(name, workload.data_hash),
            "subtasks": (),
        }
    )


def _classes(workload: Workload, name: str, labels: tuple[str, ...], splits: Mapping[str, Split]) -> Classification:
    """A classification of other labels on the same or fewer inputs, under the workload's name and the part's."""
    return Classification(
        name=f"{workload.name}/{name}",
        title=f"{workload.title}: {name}",
        modality=workload.modality,
        metric="accuracy",
        labels=labels,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        models=(),
        chance=float(torch.bincount(splits["val"].targets).max() / len(splits["val"])),
        data_hash=identity.digest(name, workload.data_hash),
        augment=workload.augment,
        note=workload.note,
    )


def _within(split: Split, labels: Tensor) -> Split:
    """The examples that have one of these labels (k,); targets are places in it."""
    at = torch.isin(split.targets, labels).nonzero()[:, 0]
    places = (split.targets[at][:, None] == labels).int().argmax(dim=1)
    clusters = None if split.clusters is None else split.clusters[at]
    return Split(split.inputs[at], places, tuple(split.ids[i] for i in at.tolist()), clusters)


def _group_of(groups: tuple[tuple[int, ...], ...]) -> Tensor:
    """(K,): the group of each label."""
    group = torch.zeros(sum(map(len, groups)), dtype=torch.int64)
    for i, labels in enumerate(groups):
        group[list(labels)] = i
    return group


def _size_bytes(workload: Damaged) -> int:
    return sum(workload.split(s).inputs.nbytes for s in SPLITS)
