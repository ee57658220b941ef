"""Learned fusion: a linear head over the members, solved on val and judged by folds.

The members were trained on train, so val is the first that they have not seen: there the head is fitted. What is said
of its val score comes from heads that did not see the example; test only reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.measuring.measurement import stacked
from modelopt_core.models import held_out_note, notes
from modelopt_core.models.composite import Composite, compose
from modelopt_core.steps.fuse.heads import last_layer, read
from modelopt_core.structure.layer_inputs import sample
from modelopt_core.training.logistic import CrossFitted, cross_fitted, take
from modelopt_core.training.loop import EVALUATION_BATCH
from modelopt_core.workloads.workload import Workload

NOTE = "learned"
VARIED = 64  # directions in which a head over many features may go
LOOKED_AT = 2000  # examples that say which


@dataclass(frozen=True)
class Learned:
    """How a head was found. strength: of its pull towards weighted averages, chosen by the folds; inf: the plain one.

    tried: (strength, log loss on examples that the heads had not seen, in nats).
    """

    strength: float
    tried: tuple[tuple[float, float], ...]
    folds: int


def learned(model: nn.Module) -> Learned | None:
    """How the model's head was found, or None where there is none, or the model comes from a file."""
    if (found := notes.noted(model, NOTE)) is None:
        return None
    (strength, folds), tried = found["chosen"].tolist(), found["tried"].tolist()
    return Learned(strength, tuple(map(tuple, tried)), int(folds))


def reads(model: nn.Module) -> list[Tensor]:
    """Per member (P, K): the head's weights on what it reads of that member."""
    head: Tensor = model.get_parameter("head.weight").detach()
    members = model.get_submodule("members").children()
    widths = [getattr(member, "width", head.shape[0]) for member in members]
    return [part.t() for part in head.split(widths, dim=1)]


def over_outputs(
    models: Sequence[nn.Module], workload: Workload, folds: int, strengths: Sequence[float], generator: torch.Generator
) -> nn.Module:
    """Multinomial logistic regression on the members' log-probabilities, pulled towards weighted geometric means.

    Source: Wolpert, Stacked generalization, Neural Networks 5, 1992; Ting and Witten, Issues in stacked generalization,
    arXiv 1105.5466 (class probabilities and a linear model).
    """
    said = stacked(models, workload)  # (M, n, K)
    m, _, k = said.shape
    mean = torch.cat([torch.eye(k) / m] * m + [torch.zeros(1, k)])  # (M K + 1, K)
    whole = compose("stack", models, classes=k)
    return _with_head(whole, read(said), mean, [k] * m, workload, folds, strengths, generator)


def over_features(
    models: Sequence[nn.Module], workload: Workload, folds: int, strengths: Sequence[float], generator: torch.Generator
) -> nn.Module:
    """A linear head on what every member's last layer reads, pulled towards weighted means of these layers' logits.

    Source: Ngiam et al., Multimodal Deep Learning, ICML 2011 (shared layers over joined features); the pull: Kienzle
    and Chellapilla, Personalized handwriting recognition via biased regularization, ICML 2006.
    """
    trunks, parts, bias = [], [], torch.zeros(())
    for at, model in enumerate(models, start=1):
        name = last_layer(model, workload)
        if name is None:
            kind = getattr(model, "called", type(model).__name__)
            raise ModelOptError(f"Fuse finds no last linear layer in model {at} ({kind}); fuse outputs instead")
        layer = model.get_submodule(name)
        parts.append(layer.get_parameter("weight").detach().t().clone() / len(models))
        bias = bias + (0 if layer.bias is None else layer.get_parameter("bias").detach() / len(models))
        trunks.append(compose("trunk", [model], layer=name))
    weight = torch.cat(parts)  # (P, K)
    mean = torch.cat([weight, bias.expand(1, weight.shape[1])])
    whole = compose("features", trunks, classes=weight.shape[1])
    seen = torch.cat([_features(trunk, workload) for trunk in trunks], dim=1)  # (n, P)
    widths = [len(part) for part in parts]
    return _with_head(whole, seen, mean, widths, workload, folds, strengths, generator)


def _features(trunk: nn.Module, workload: Workload) -> Tensor:
    """(n, P) of val."""
    with torch.no_grad():
        return torch.cat([trunk(inputs) for inputs, _ in workload.val.batches(EVALUATION_BATCH)]).clone()


def _with_head(
    whole: Composite,
    seen: Tensor,
    mean: Tensor,
    widths: Sequence[int],
    workload: Workload,
    folds: int,
    strengths: Sequence[float],
    generator: torch.Generator,
) -> nn.Module:
    """`whole` with its head fitted to what its members gave on val, (n, P), and noted what the folds say.

    mean: (P + 1, K), where the members count alike; widths: how many of its rows are each member's. How much a member
    counts is free of the pull: a strong one leaves so many numbers to find.
    """
    rows = torch.arange(len(mean)).repeat(len(widths), 1)
    ends = torch.tensor(widths).cumsum(0)[:, None]
    own = (rows < ends) & (rows >= ends - torch.tensor(widths)[:, None])  # (M, P + 1)
    free = mean * own[:, :, None]
    along = torch.block_diag(_directions(seen, [mean[mask] for mask in own]), torch.eye(1))  # (P + 1, Q + 1)
    found: CrossFitted = cross_fitted(
        seen @ along[:-1, :-1],
        workload.val.targets,
        along.t() @ mean,
        folds,
        generator,
        strengths,
        along.t() @ free,
        workload.val.clusters,
    )
    head = along @ found.head
    take(whole.head, head)  # type: ignore[arg-type]
    chosen = torch.tensor([found.strength, folds], dtype=torch.float64)
    tried = torch.tensor(found.tried, dtype=torch.float64).reshape(-1, 2)
    notes.note(whole, NOTE, {"chosen": chosen, "tried": tried})
    return held_out_note.note(whole, workload, seen @ head[:-1] + head[-1], found.held_out)


def _directions(seen: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """(P, Q), at right angles: along these a head may leave the mean; all, unless there are many numbers to read.

    seen: (n, P); parts: (Pₘ, K), the members' own. Of many, those that the members themselves look along, and the
    VARIED along which examples differ most.
    Source: Halko, Martinsson and Tropp, Finding structure with randomness, arXiv 0909.4061, algorithm 4.4.
    """
    own = torch.block_diag(*parts)
    if len(own) <= own.shape[1] + VARIED:
        return torch.eye(len(own))
    rows = seen[sample(len(seen), LOOKED_AT)]
    rows = rows - rows.mean(dim=0)
    varied = torch.randn(len(own), VARIED, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        varied = torch.linalg.qr(rows.t() @ (rows @ varied)).Q
    return torch.linalg.qr(torch.cat([own, varied], dim=1)).Q
