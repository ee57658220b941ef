"""Workloads made of another: one subtask of it.

Each is a workload like any other, with data, labels and a score of its own: a stage's model is trained on it by the
zoo's recipe and compressed by every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modelopt_core import boxes, identity
from modelopt_core.altered import NAMED, Damaged, Scattered, damaged, scattered
from modelopt_core.errors import ModelOptError
from modelopt_core.workload import SPLITS, Classification, Outputs, Split, Workload


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


@dataclass(frozen=True, eq=False)
class Location(Workload):
    """Where in a picture the input lies: targets and outputs are boxes (n, 3), see boxes.py."""

    def decode(self, outputs: Outputs) -> Tensor:
        """(N, 3): the boxes."""
        return outputs.logits

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """1 − intersection over union, and the mean absolute error, which pulls where nothing overlaps yet.

        Source: Carion et al., End-to-End Object Detection with Transformers, arXiv 2005.12872, sec. 3.1.
        """
        away = (outputs.logits - targets).abs().mean()
        return 1 - boxes.overlap(outputs.logits, targets).mean() + away

    def example_scores(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Intersection over union: (N,)."""
        return boxes.overlap(outputs.logits, targets)

    def confidence(self, outputs: Outputs) -> Tensor:
        """(N,): a box says nothing about how sure it is."""
        return torch.ones(len(outputs.logits))


def part(workload: Workload, name: str) -> Workload:
    """One subtask of a workload as a workload of its own: `groups`, `quality`, `repair`, `locate`, `experts/1` …

    ModelOptError for what the workload does not declare.
    """
    task, _, number = name.partition("/")
    found = workload.subtask(task)
    if found.kind == "judge":
        return _judged(damaged(workload), found.labels, name)
    if found.kind == "map" and found.meets == "scatter":
        return _located(scattered(workload), name)
    if found.kind == "map":
        return _mapped(damaged(workload), name)
    if found.kind == "route":
        group = _group_of(found.groups)
        splits = {s: workload.split(s).asking(group[workload.split(s).targets]) for s in SPLITS}
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


def _judged(workload: Damaged, labels: tuple[str, ...], name: str) -> Classification:
    splits = {s: workload.split(s).asking(workload.harmed[s].long()) for s in SPLITS}
    return _classes(workload, name, labels, splits)


def _mapped(workload: Damaged, name: str) -> Repair:
    """Damaged inputs and what they were. Those to train on come sound: a recipe damages them anew in every epoch."""
    assert workload.damage is not None
    splits = {}
    for split in SPLITS:
        sound, draw = workload.sound(split), torch.Generator().manual_seed(NAMED[split])
        given = sound if split == "train" else workload.damage(sound, draw)
        splits[split] = replace(workload.split(split), inputs=given, targets=sound)
    chance = 1 - float((splits["val"].inputs - workload.sound("val")).abs().mean())
    return Repair(**_fields(workload, name, splits), metric="likeness", chance=chance)


def _located(workload: Scattered, name: str) -> Location:
    """Scattered inputs and where they are. The best answer that is always the same: the middle one, of mean size."""
    splits = {s: workload.split(s).asking(workload.truth[s]) for s in SPLITS}
    mean = splits["val"].targets.mean(dim=0).expand(len(splits["val"]), -1)
    chance = float(boxes.overlap(mean, splits["val"].targets).mean())
    return Location(**_fields(workload, name, splits), metric="mean IoU", chance=chance)


def _fields(workload: Workload, name: str, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Of a part whose answers are numbers: all but what they are scored by."""
    kept = {key: getattr(workload, key) for key in Workload.__dataclass_fields__ if key not in ("metric", "chance")}
    return {
        **kept,
        **splits,
        "name": f"{workload.name}/{name}",
        "title": f"{workload.title}: {name}",
        "labels": (),
        "data_hash": identity.digest(name, workload.data_hash),
        "subtasks": (),
    }


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
    ids = tuple(split.ids[i] for i in at.tolist())
    return replace(split, inputs=split.kept[at], targets=places, ids=ids, clusters=clusters)


def _group_of(groups: tuple[tuple[int, ...], ...]) -> Tensor:
    """(K,): the group of each label."""
    group = torch.zeros(sum(map(len, groups)), dtype=torch.int64)
    for i, labels in enumerate(groups):
        group[list(labels)] = i
    return group
