"""Network and heads trained together, so that early layers learn what early heads need.

Every exit learns from the labels; an early one also from what the last says, which makes up for what it cannot see.

Source: Teerapittayanon, McDanel and Kung, BranchyNet, arXiv 1709.01686 (one loss, the sum over all exits); Zhang et
al., Be Your Own Teacher, arXiv 1905.08094 (the last exit teaches the others).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from modelopt_core.cascade.exits import Exits, Piece
from modelopt_core.events import Report
from modelopt_core.models import initialise
from modelopt_core.straight import Settling, on_points, settled
from modelopt_core.train import Objective, fit
from modelopt_core.workload import Outputs, Workload

BATCH = 128


@dataclass(frozen=True, eq=False)
class EveryExit(Workload):
    """A workload whose models answer at every exit: outputs (b, S · K); scores and losses are means over the exits."""

    own: Workload = field(kw_only=True)

    def forward(self, model: nn.Module, inputs: Tensor) -> Outputs:
        """model: Exits."""
        assert isinstance(model, Exits)
        return Outputs(model.every(inputs).transpose(0, 1).flatten(1))

    def apart(self, outputs: Outputs) -> list[Outputs]:
        """(b, K) of each exit, the last one last."""
        return [Outputs(logits) for logits in outputs.logits.split(len(self.labels), dim=1)]

    def decode(self, outputs: Outputs) -> Tensor:
        return self.own.decode(self.apart(outputs)[-1])

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        return torch.stack([self.own.loss(one, targets) for one in self.apart(outputs)]).mean()

    def example_scores(self, outputs: Outputs, targets: Tensor) -> Tensor:
        return torch.stack([self.own.example_scores(one, targets) for one in self.apart(outputs)]).mean(dim=0)


def joint_loss(said: Tensor, losses: Tensor) -> Tensor:
    """Σ over exits of the labels' loss, and over the early ones of CE(last, early): (S, b, K), (S,) -> ().

    said: log-probabilities, the last exit's last; as a teacher it is not drawn to its pupils.
    """
    teacher = said[-1].detach().exp()
    return losses.sum() - (teacher * said[:-1]).sum(dim=-1).mean(dim=-1).sum()


def trained(whole: Exits, workload: Workload, *, epochs: int, lr: float, seed: int, report: Report) -> Exits:
    """A copy trained on train, all exits at once; the epoch whose exits score best on val, on average.

    What is zero stays so, and what lies on a grid stays on it: a pruned or quantized network remains one.
    """
    every = EveryExit(**{f.name: getattr(workload, f.name) for f in fields(Workload)}, own=workload)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        apart = every.apart(every.forward(model, inputs))
        losses = torch.stack([workload.loss(one, targets) for one in apart])
        return joint_loss(torch.stack([one.log_probabilities for one in apart]), losses)

    done = fit(
        on_points(whole),
        every,
        epochs=epochs,
        lr=lr,
        batch_size=BATCH,
        augment=workload.augment,
        objective=Objective(loss, "every exit"),
        keep_zeros=True,
        seed=seed,
        report=Settling(report),
    )
    found = settled(done)
    assert isinstance(found, Exits)
    return found


def drawn(whole: Exits, seed: int) -> Exits:
    """`whole` with its heads drawn anew, in place: zeros would never learn."""
    generator = torch.Generator().manual_seed(seed)
    for piece in whole.members:
        if isinstance(piece, Piece) and piece.head is not None:
            initialise(piece.head, generator)
    return whole
