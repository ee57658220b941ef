"""Exits that are trained: with their network, so that early layers learn what early heads need, or the heads alone.

Every exit learns from the labels; an early one also from what the last says, which makes up for what it cannot see.

Source: Teerapittayanon, McDanel and Kung, BranchyNet, arXiv 1709.01686 (one loss, the sum over all exits); Zhang et
al., Be Your Own Teacher, arXiv 1905.08094 (the last exit teaches the others).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from modelopt_core.machine.events import Progress, Relay, Report
from modelopt_core.models import identity
from modelopt_core.steps.cascade.exits import Exits, Piece, flat
from modelopt_core.structure.build import initialise
from modelopt_core.tasks import nats
from modelopt_core.training.loop import Objective, fit
from modelopt_core.workloads.workload import Outputs, Workload

BATCH = 128


class Heads(nn.Module):
    """The heads of a network with exits, to be trained while it stays. stays: the network, no part of this module."""

    def __init__(self, whole: Exits) -> None:
        super().__init__()
        self.heads = nn.ModuleList(piece.head for piece in whole.members if isinstance(piece.head, nn.Module))
        self.stays = [whole]  # in a list: its parameters are not trained, its norms not moved

    def every(self, inputs: Tensor) -> Tensor:
        """As `Exits.every`."""
        said = []
        for piece, head in zip(self.stays[0].members, [*self.heads, None], strict=True):
            assert isinstance(piece, Piece)
            with torch.no_grad():
                states = piece.made(inputs)
                read = states[0] if piece.pool is None else piece.pool(states[0])
                inputs = torch.cat(flat(states), dim=1)
            said.append(torch.log_softmax(read if head is None else head(read), dim=-1))
        return torch.stack(said)


@dataclass(frozen=True, eq=False)
class Attached(Relay):
    """A report that hears of the best heads so far on their network."""

    def __call__(self, event: object) -> None:
        """As any report."""
        if isinstance(event, Progress) and (best := event.best) is not None:
            event = replace(event, best=lambda: _network(best()))
        super().__call__(event)


@dataclass(frozen=True, eq=False)
class EveryExit(Workload):
    """A workload whose models answer at every exit: outputs (b, S · K); scores and losses are means over the exits."""

    own: Workload = field(kw_only=True)

    def forward(self, model: nn.Module, inputs: Tensor) -> Outputs:
        """model: Exits, or Heads."""
        assert isinstance(model, Exits | Heads)
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
    return losses.sum() + nats.cross_entropy(said[-1].detach(), said[:-1]).mean(dim=-1).sum()


def trained(
    whole: Exits, workload: Workload, *, epochs: int, lr: float, seed: int, report: Report, stays: bool = False
) -> Exits:
    """A copy trained on train, all exits at once; the epoch whose exits score best on val, on average.

    What is zero stays so, and what lies on a grid stays on it: a pruned or quantized network remains one. stays: only
    the heads learn.
    """
    every = EveryExit(**{f.name: getattr(workload, f.name) for f in fields(Workload)}, own=workload)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        apart = every.apart(every.forward(model, inputs))
        losses = torch.stack([workload.loss(one, targets) for one in apart])
        return joint_loss(torch.stack([one.log_probabilities for one in apart]), losses)

    done = fit(
        Heads(whole) if stays else whole,
        every,
        epochs=epochs,
        lr=lr,
        batch_size=BATCH,
        augment=workload.augment,
        objective=Objective(loss, f"every exit {identity.key(whole) if stays else ''}"),
        keep_zeros=True,
        seed=seed,
        report=Attached(report),
    )
    return _network(done)


def _network(model: nn.Module) -> Exits:
    """What was trained, as a network with exits."""
    found = model.stays[0] if isinstance(model, Heads) else model
    assert isinstance(found, Exits)
    return found


def drawn(whole: Exits, seed: int) -> Exits:
    """`whole` with its heads drawn anew, in place: zeros would never learn."""
    generator = torch.Generator().manual_seed(seed)
    for piece in whole.members:
        if isinstance(piece, Piece) and piece.head is not None:
            initialise(piece.head, generator)
    return whole
