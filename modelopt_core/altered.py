"""The same task on inputs that were altered on purpose, and what undoes it: half of them damaged, or all scattered.

What was done is simulated, and the workload says so; it is the same in every process. A stage of a pipeline that undoes
it has a truth, which is what an oracle in its place knows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from modelopt_core import identity
from modelopt_core.boxes import crop
from modelopt_core.cache import STORE
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.workload import SPLITS, Classification, Scatter, Split, Workload

MOST = 10_000  # altered examples of a split: enough for a small model, and memory is bounded
SHARE = 0.5  # of the examples that are damaged
NAMED = {"train": 0, "val": 1, "test": 2}  # seeds: the same in every process


@dataclass(frozen=True, eq=False, kw_only=True)
class Altered(Classification):
    """The same task on other inputs. origin: the workload that they were made of, the same examples first in every
    split; truth: split -> what must be known of each of n examples to undo it. how: the name in ALTERATIONS.
    """

    how: ClassVar[str]
    origin: Workload
    truth: Mapping[str, Tensor]

    @property
    @abstractmethod
    def whole(self) -> Workload:
        """The inputs as a stage that undoes it without a mistake hands them on, the same examples first."""

    def sound(self, split: str) -> Tensor:
        """(n, *shape): of a split, the inputs of `whole`."""
        return self.whole.split(split).take(slice(len(self.truth[split])))


@dataclass(frozen=True, eq=False, kw_only=True)
class Damaged(Altered):
    """Half of the inputs damaged. truth: (n,) bool, is it?"""

    how = "damage"

    @property
    def whole(self) -> Workload:
        """Where none is damaged."""
        return self.origin

    @property
    def harmed(self) -> Mapping[str, Tensor]:
        """`truth` by another name."""
        return self.truth


@dataclass(frozen=True, eq=False, kw_only=True)
class Scattered(Altered):
    """Every input shrunk and put anywhere in a picture of the same size. truth: boxes (n, 3), see boxes.py."""

    how = "scatter"

    @property
    def whole(self) -> Workload:
        """What lies in the true boxes: the inputs, but for what shrinking took."""
        return STORE.get(("located", self.data_hash), self._located, _size_bytes)

    def _located(self) -> Workload:
        train, val, test = (
            replace(self.split(s), inputs=crop(self.split(s).inputs, self.truth[s])) for s in ("train", "val", "test")
        )
        located = identity.digest("located", self.data_hash)
        return replace(self.origin, train=train, val=val, test=test, data_hash=located)


A = TypeVar("A", bound=Altered)


def damaged(workload: Workload) -> Damaged:
    """The workload with half of its inputs damaged as it declares; the same damage at every call."""
    damage = workload.damage
    if damage is None and not isinstance(workload, Damaged):
        raise ModelOptError(f"{workload.name} does not say how its inputs are damaged; use digits or mnist")

    def change(was: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        assert damage is not None
        bad = torch.rand(len(was), generator=draw) < SHARE
        return torch.where(bad.reshape(-1, *[1] * (was.dim() - 1)), damage(was, draw), was), bad

    title, note = "half of them damaged (simulated)", "Half of the inputs are damaged: simulated."
    return _made(Damaged, workload, change, title, note, SHARE)


def scattered(workload: Workload) -> Scattered:
    """The workload with every input somewhere in a larger picture, as it declares; the same places at every call."""
    scatter = workload.scatter
    if scatter is None and not isinstance(workload, Scattered):
        raise ModelOptError(f"{workload.name} does not say how its inputs are scattered; use mnist")
    title, note = "scattered (simulated)", "Each is shrunk and put anywhere in an empty picture: simulated."
    return _made(Scattered, workload, cast(Scatter, scatter), title, note)


ALTERATIONS: Mapping[str, Callable[[Workload], Altered]] = {"damage": damaged, "scatter": scattered}


def altered(workload: Workload, how: str) -> Workload:
    """The workload with its inputs altered in the way of that name, as it is where there is none."""
    if how and how not in ALTERATIONS:
        raise unknown("alteration", how, ALTERATIONS)
    return ALTERATIONS[how](workload) if how else workload


def alterations(workload: Workload) -> tuple[str, ...]:
    """The names of those that the workload declares."""
    declared = {"damage": workload.damage, "scatter": workload.scatter}
    return tuple(name for name, how in declared.items() if how is not None)


def _made(kind: type[A], workload: Workload, change: Scatter, title: str, note: str, *how: object) -> A:
    """The workload altered, made once. change: inputs (n, *shape), generator -> inputs and their truth (n, …)."""
    if isinstance(workload, kind):
        return workload
    name = kind.__name__.lower()

    def make() -> A:
        splits, truth = {}, {}
        for split, seed in NAMED.items():
            was = workload.split(split)
            n = min(len(was), MOST)
            inputs, truth[split] = change(was.take(slice(n)), torch.Generator().manual_seed(seed))
            clusters = None if was.clusters is None else was.clusters[:n]
            splits[split] = Split(inputs, was.targets[:n], was.ids[:n], clusters)
        fields: dict[str, Any] = {field: getattr(workload, field) for field in Classification.__dataclass_fields__}
        fields |= {
            **splits,
            "title": f"{workload.title}, {title}",
            "note": f"{workload.note} {note}",
            "made": f"mo.{name}({workload.call})",
            "data_hash": identity.digest(name, workload.data_hash, *how, MOST),
            "show": lambda split, i: splits[split].take(i)[0].numpy(),
        }
        return kind(**fields, origin=workload, truth=truth)

    return STORE.get((name, workload.data_hash), make, _size_bytes)


def _size_bytes(workload: Workload) -> int:
    return sum(workload.split(s).inputs.nbytes for s in SPLITS)
