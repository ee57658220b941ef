"""How each shipped model was trained: its architecture, the arguments of `fit`, and the subtask if it learned one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from modelopt_core.machine.events import Report, silent
from modelopt_core.models.spec import Spec
from modelopt_core.structure.build import build
from modelopt_core.tasks import boxes
from modelopt_core.training.loop import fit
from modelopt_core.workloads.augment import drop_words, shift, speckle
from modelopt_core.workloads.subtask_data import part
from modelopt_core.workloads.workload import Augment, Workload


@dataclass(frozen=True)
class Training:
    """How one baseline is trained: the model's spec and the arguments of `fit`.

    jitter: pixels, see `shift`; word_dropout: share, see `drop_words`; noise: share, see
    `speckle`; part: the subtask it learns, see subtask_data.py.
    """

    spec: Spec
    epochs: int
    lr: float
    batch_size: int = 64
    weight_decay: float = 0.0
    jitter: int = 0
    word_dropout: float = 0.0
    noise: float = field(default=0.0, repr=False)  # not in the text that kept networks are found by
    seed: int = 0
    part: str = field(default="", repr=False)

    @property
    def augment(self) -> Augment | None:
        """What is done to every batch before it is learned from."""
        if self.jitter:
            return partial(shift, pixels=self.jitter)
        if self.noise:
            return partial(speckle, share=self.noise)
        return partial(drop_words, share=self.word_dropout) if self.word_dropout else None

    def data(self, whole: Workload) -> Workload:
        """What it learns from: the workload, or a part of it."""
        return part(whole, self.part) if self.part else whole

    def train(self, data: Workload, report: Report = silent) -> nn.Module:
        """The network, from its seed's first weights, in eval mode."""
        return fit(
            build(self.spec, self.seed),
            data,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            augment=self.augment,
            seed=self.seed,
            report=report,
        )


DIGIT, IMAGE, TEXT = (1, 8, 8), (1, 28, 28), (48,)
ZOO = {
    # Weight decay makes what is unimportant small, so that there is something to prune; the seed is the better on val.
    "digits/cnn": Training(Spec("cnn", (), DIGIT), epochs=40, lr=3e-3, weight_decay=0.01, jitter=1, seed=1),
    # The same from another seed: what lies between two networks that were trained apart.
    "digits/cnn-2": Training(Spec("cnn", (), DIGIT), epochs=40, lr=3e-3, weight_decay=0.01, jitter=1, seed=2),
    "digits/mlp": Training(Spec("mlp", (("sizes", (64, 64, 32, 10)),), DIGIT), epochs=40, lr=3e-3),
    "mnist/lenet300": Training(
        Spec("mlp", (("sizes", (784, 300, 100, 10)),), IMAGE), epochs=30, lr=1e-3, batch_size=128, jitter=1
    ),
    "mnist/lenet5": Training(Spec("lenet5", (), IMAGE), epochs=10, lr=1e-3, batch_size=128, jitter=2),
    "mnist/mlp1200": Training(
        Spec("mlp", (("sizes", (784, 1200, 1200, 10)),), IMAGE), epochs=12, lr=1e-3, batch_size=256, jitter=2
    ),
    # The first stage of a cascade: quick, right on what is easy, unsure about the rest.
    "mnist/mlp30": Training(Spec("mlp", (("sizes", (784, 30, 10)),), IMAGE), epochs=30, lr=3e-3, batch_size=128),
    **{  # the members of a deep ensemble: one recipe, five seeds
        f"mnist/lenet300-{seed}": Training(
            Spec("mlp", (("sizes", (784, 300, 100, 10)),), IMAGE),
            epochs=30,
            lr=1e-3,
            batch_size=128,
            jitter=1,
            seed=seed,
        )
        for seed in (1, 2, 3, 4)
    },
    "mnist/article": Training(Spec("article", (), IMAGE), epochs=10, lr=2e-3, batch_size=128, jitter=1),
    **{
        f"docstrings/{name}": Training(
            Spec("bag", (("classes", 7), ("hidden", 64)), TEXT, "int64"),
            epochs=20,
            lr=5e-3,
            weight_decay=0.3,
            word_dropout=0.6,
            seed=seed,
        )
        for seed, name in enumerate(("bag", "bag-1"))
    },
    "docstrings/textcnn": Training(
        Spec("textcnn", (("classes", 7), ("kernel", 3)), TEXT, "int64"),
        epochs=15,
        lr=3e-3,
        weight_decay=0.3,
        word_dropout=0.5,
    ),
}


def _stages(workload_name: str, of: Callable[[int], Spec], groups: Sequence[int], **how: Any) -> dict[str, Training]:
    """The recipes of a pipeline that sorts: one for the groups, one for the expert of each. of: classes -> spec."""
    names = {"groups": ("groups", len(groups))} | {
        f"expert-{i + 1}": (f"experts/{i + 1}", size) for i, size in enumerate(groups)
    }
    return {f"{workload_name}/{name}": Training(of(k), part=learns, **how) for name, (learns, k) in names.items()}


def _mending(workload_name: str, shape: tuple[int, ...], width: int, **how: Any) -> dict[str, Training]:
    """The recipes of what stands before a reader: a judge with one hidden layer, and a denoiser."""
    judge = Spec("mlp", (("sizes", (math.prod(shape), 16, 2)),), shape)
    mender = Spec("denoiser", (("width", width),), shape)
    return {
        f"{workload_name}/quality": Training(judge, part="quality", **how),
        f"{workload_name}/repair": Training(mender, part="repair", noise=0.25, **how),
    }


ZOO |= {
    **_stages(
        "digits",
        lambda k: Spec("cnn", (("classes", k), ("hidden", 16), ("width1", 6), ("width2", 12)), DIGIT),
        (4, 3, 3),
        epochs=60,
        lr=5e-3,
        weight_decay=0.01,
        jitter=1,
    ),
    **_mending("digits", DIGIT, 8, epochs=150, lr=1e-2),
    **_stages(
        "mnist",
        lambda k: Spec("article", (("classes", k), ("width1", 4), ("width2", 8)), IMAGE),
        (2, 3, 5),
        epochs=20,
        lr=4e-3,
        batch_size=128,
        jitter=1,
    ),
    **_mending("mnist", IMAGE, 6, epochs=8, lr=5e-3),
    "mnist/locate": Training(
        Spec("article", (("classes", boxes.NUMBERS), ("width1", 8), ("width2", 16)), IMAGE),
        epochs=30,
        lr=4e-3,
        part="locate",
    ),
    **_stages(
        "docstrings",
        lambda k: Spec("bag", (("classes", k), ("hidden", 16), ("width", 8)), TEXT, "int64"),
        (4, 3),
        epochs=20,
        lr=1e-2,
        weight_decay=0.3,
        word_dropout=0.5,
    ),
}
