"""Fine-tuning: a few more epochs of training, so that what is left makes up for what was removed."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from modelopt_core.machine.events import Note, Report
from modelopt_core.models import weight_grid
from modelopt_core.steps.base import STEPS, Knob, Transform
from modelopt_core.training.loop import fit
from modelopt_core.workloads.workload import Workload


@STEPS.register("Finetune")
class Finetune(Transform):
    """Train on the training split with Adam and a cosine schedule; return the epoch that does best on val.

    The model as it came is a candidate too, so val never gets worse. Weights that are exactly zero stay zero: a pruned
    network stays pruned. A quantized one trains on its grid (on_points.py), unless `keep_grid` says that it leaves it.
    Layers that are frozen (requires_grad is False) stay as they are.

    Source: Han et al., Learning both weights and connections, arXiv 1506.02626; Loshchilov and Hutter, SGDR,
    arXiv 1608.03983.
    """

    sentence: ClassVar[str] = "Train a little longer. How much of the loss comes back?"
    formula: ClassVar[str] = "w ← w − η ∇L(w)"

    epochs: Annotated[int, Knob(1, 20, 1, "e")] = Field(
        3, ge=1, le=1000, title="Epochs", description="Passes over the training split."
    )
    lr: float = Field(1e-3, gt=0, le=1e9, title="Learning rate", description="First step size; falls to zero.")
    batch_size: int = Field(64, ge=1, le=65536, title="Batch", description="Examples per step.")
    augment: bool = Field(
        False,
        title="Vary",
        description="Train on varied examples, where the workload has a way: images moved by a pixel, words left out.",
    )
    keep_grid: bool = Field(
        True, title="Keep the grid", description="Quantized weights stay quantized; their scales are trained too."
    )

    def lasts(self, workload: Workload) -> bool:
        """Training takes seconds to minutes."""
        return True

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        if not self.keep_grid:
            left = [name for name, layer in model.named_modules() if weight_grid.points_of(layer) is not None]
            for name in left:
                weight_grid.detach(model.get_submodule(name))
            if left:
                report(Note(f"the weights of {', '.join(left)} are floats again; keep_grid keeps them on their points"))
        return fit(
            model,
            workload,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            augment=workload.augment if self.augment else None,
            keep_zeros=True,
            seed=generator.initial_seed(),
            report=report,
        )
