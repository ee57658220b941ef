"""A workload: data in three splits, baseline models, one metric, and the task that ties them together.

Techniques see `Outputs` only. What a batch means, how an answer is decoded and how an example is scored belongs
to the workload, so that detection, translation or ranking need no special case in any technique.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.registry import Registry
from modelopt_core.subtask import Subtask

SPLITS = ("train", "val", "test")
BOX = 3  # numbers of one, see boxes.py
Augment = Callable[[Tensor, torch.Generator], Tensor]
Scatter = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


def shuffled_batches(n: int, size: int) -> int:
    """How many batches `Split.places` makes of n shuffled examples."""
    joins = n > size > 1 and n % size == 1
    return math.ceil(n / size) - joins


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split: `train` fits, `val` chooses, `test` only reports.

    inputs: (n, *shape) what a model takes; targets: (n, …) what its answers are compared with;
    ids: n stable names of the examples (disjoint between splits); clusters: (n,) numbers, the same for examples that
    were taken from one source (a file, a writer) and are alike, None where nobody knows.
    """

    inputs: Tensor
    targets: Tensor
    ids: tuple[str, ...] | range
    clusters: Tensor | None = None

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def kept(self) -> Tensor:
        """(n, *shape) inputs as they lie in memory; what `replace` hands on where they stay what they are."""
        kept: Tensor = vars(self)["inputs"]
        return kept

    def take(self, at: Any) -> Tensor:
        """(b, *shape) inputs of the examples `at`: a slice, (b,) indices, or a list of them."""
        return self.kept[at]

    def asking(self, targets: Tensor) -> Split:
        """The same inputs with other targets (n, …)."""
        return replace(self, inputs=self.kept, targets=targets)

    def on(self, device: torch.device) -> Split:
        """The same examples in the memory of a device."""
        return replace(self, inputs=self.kept.to(device), targets=self.targets.to(device))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs (b, *shape), targets (b, …)) in order, or shuffled by `generator`; see `places`."""
        for at in self.places(size, generator):
            yield self.take(at), self.targets[at]

    def places(self, size: int, generator: torch.Generator | None = None) -> Iterator[Any]:
        """Where the examples of each batch lie, for whoever keeps something beside them: a slice, or (b,) indices.

        The last batch may be short; shuffled, as for training, a last one of one example joins the batch before it: a
        single example has no variance for a batch norm.
        """
        n = len(self)
        if generator is None:
            yield from (slice(start, start + size) for start in range(0, n, size))
            return
        order = torch.randperm(n, generator=generator)
        yield from order.tensor_split([size * (i + 1) for i in range(shuffled_batches(n, size) - 1)])


class Pixels(Split):
    """A split that keeps its inputs as bytes, in a quarter of the memory: a model takes bytes / 255 as float32.

    `inputs` makes all floats anew at every reading; `take` makes those that are wanted. Given floats, it keeps floats.
    """

    @property
    def inputs(self) -> Tensor:
        """(n, *shape) in [0, 1]."""
        return self.take(slice(None))

    @inputs.setter
    def inputs(self, given: Tensor) -> None:
        vars(self)["inputs"] = given

    def take(self, at: Any) -> Tensor:
        """(b, *shape) in [0, 1], the same numbers whichever others are taken."""
        some = self.kept[at]
        return some.float().div_(255) if some.dtype is torch.uint8 else some


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model says about N examples, flattened to K choices each.

    logits: (N, K) unnormalised log-probabilities; features: named intermediate tensors, where a technique asked.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(N, K), normalised over K."""
        return torch.log_softmax(self.logits, dim=-1)


@dataclass(frozen=True, eq=False)
class Workload(ABC):
    """Base of all workloads; a subclass says what its task means. See `Classification`."""

    name: str
    title: str
    modality: str  # "image" or "text": how an example is shown
    metric: str
    labels: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    models: tuple[str, ...]  # zoo names; the first is the default
    chance: float  # score of the best constant answer
    data_hash: str  # sha256 over everything in the three splits
    note: str = ""  # what the page says about where the data came from
    show: Callable[[str, int], object] | None = None  # (split, index) -> (h, w) array in [0, 1] or str
    augment: Augment | None = None  # varies inputs (b, *shape) in ways that leave their answers what they are
    damage: Augment | None = None  # what may happen to inputs (b, *shape) before a model sees them, simulated
    scatter: Scatter | None = None  # (b, *shape) -> pictures that hold them somewhere, and boxes (b, 3), simulated
    subtasks: tuple[Subtask, ...] = ()  # what the stages of a pipeline may do
    made: str = ""  # the call that makes it where that is not `mo.workload(name)`

    @property
    def call(self) -> str:
        """What a program writes to have it."""
        return self.made or f"mo.workload({self.name!r})"

    @property
    def example(self) -> Tensor:
        """(1, *shape): one input, for tracing and for latency."""
        return self.train.take(slice(1))

    @property
    def widths(self) -> frozenset[int]:
        """Of how many numbers a model's answer to one input may be; empty: any."""
        return frozenset()

    def split(self, name: str) -> Split:
        """One of the three splits by name."""
        if name not in SPLITS:
            raise ModelOptError(f"unknown split {name!r}; choose from {', '.join(SPLITS)}")
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def subtask(self, name: str) -> Subtask:
        """One of the declared subtasks by name."""
        found = {task.name: task for task in self.subtasks}
        if name not in found:
            raise unknown(f"subtask of {self.name}", name, found)
        return found[name]

    def forward(self, model: nn.Module, inputs: Tensor) -> Outputs:
        """Run the model on a batch: inputs (b, *shape) -> Outputs of (b, K)."""
        return Outputs(model(inputs))

    @abstractmethod
    def decode(self, outputs: Outputs) -> Tensor:
        """Outputs -> answers, one per example."""

    @abstractmethod
    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Outputs of (b, K) and targets (b, …) -> scalar to minimise."""

    @abstractmethod
    def example_scores(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """(N,) scores in [0, 1] whose mean is the metric."""

    def confidence(self, outputs: Outputs) -> Tensor:
        """(N,) in [0, 1]: how sure each answer is."""
        return outputs.log_probabilities.amax(dim=-1).exp()


@dataclass(frozen=True, eq=False)
class Classification(Workload):
    """One label of K per example; the metric is accuracy."""

    def __post_init__(self) -> None:
        for name in SPLITS:
            targets = self.split(name).targets
            wrong = ~((targets >= 0) & (targets < len(self.labels)) & (targets == targets.round()))
            if wrong.any():
                at = int(wrong.flatten().nonzero()[0])
                raise ModelOptError(
                    f"{name} of {self.name} has the label {targets.flatten()[at].item():g} at place {at}; its "
                    f"{len(self.labels)} classes are 0 to {len(self.labels) - 1}"
                )

    @property
    def widths(self) -> frozenset[int]:
        """Its classes, or what a stage of a pipeline answers with."""
        found = {len(self.labels)}
        for task in self.subtasks:
            found |= {len(task.labels), *map(len, task.groups)} - {0}
            if task.kind == "map":
                found |= {self.example.numel(), BOX}
        return frozenset(found)

    def decode(self, outputs: Outputs) -> Tensor:
        """(N,) class indices."""
        return outputs.logits.argmax(dim=-1)

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats. ModelOptError for a model of another question."""
        if (classes := outputs.logits.shape[-1]) != len(self.labels):
            raise ModelOptError(
                f"the model answers with {classes} classes, {self.name} has {len(self.labels)}; train a stage's model "
                "on its own part, such as part(workload, 'groups')"
            )
        return torch.nn.functional.cross_entropy(outputs.logits, targets)

    def example_scores(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """1.0 where the answer is right, else 0.0: (N,). A model of another question, with other classes, has none."""
        if outputs.logits.shape[-1] != len(self.labels):
            return torch.zeros(len(targets))
        return (self.decode(outputs) == targets).float()


WORKLOADS: Registry[Callable[[int], Workload]] = Registry("workload")
_loaded: dict[tuple[str, int], Workload] = {}
_loading = threading.Lock()


def workload(name: str, seed: int = 0) -> Workload:
    """The named workload, loaded once per process and seed. `seed` decides the splits where they are drawn."""
    entry = WORKLOADS[name]
    with _loading:
        if (name, seed) not in _loaded:
            _loaded[name, seed] = entry(seed)
        return _loaded[name, seed]


def forget() -> None:
    """Let go of the loaded workloads; who holds one keeps it, and the next call loads it again."""
    with _loading:
        _loaded.clear()
