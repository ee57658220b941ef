"""Pruning: remove what matters least.

A criterion scores every weight; the lowest `ratio` of them go. Removing single weights leaves a mask of zeros, which
makes the file smaller and nothing faster. Removing whole channels leaves a smaller dense network, which is both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from modelopt_core import channels
from modelopt_core.events import Report
from modelopt_core.registry import Registry
from modelopt_core.step import STEPS, Knob, Named, Transform
from modelopt_core.train import reestimate_norms
from modelopt_core.workload import Workload

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


@dataclass(frozen=True, eq=False)
class Stats:
    """What a criterion may look at. weight: (R, n): one row per output or, for channels, per channel."""

    weight: Tensor
    generator: torch.Generator


CRITERIA: Registry[Callable[[Stats], Tensor]] = Registry("criterion")


@CRITERIA.register("l1", equivariant=True, needs=())
def l1(stats: Stats) -> Tensor:
    """|w|: magnitude. weight (R, n) -> scores (R, n); a channel's score is the sum of its row.

    Small weights change the output least when inputs are of like size.

    Source: Han et al., Learning both weights and connections, arXiv 1506.02626; for channels: Li et al., Pruning
    filters for efficient ConvNets, arXiv 1608.08710.
    """
    return stats.weight.abs()


@CRITERIA.register("random", equivariant=False, needs=())
def random(stats: Stats) -> Tensor:
    """u ~ U(0, 1): chance. weight (R, n) -> scores (R, n). The yardstick that every other criterion has to beat.

    Source: Mittal et al., Studying the plasticity in deep networks using random pruning, arXiv 1812.10240.
    """
    return torch.rand(stats.weight.shape, generator=stats.generator)


def prune_weights(
    model: nn.Module, ratio: float, score: Callable[[Stats], Tensor], together: bool, generator: torch.Generator
) -> None:
    """Zero the lowest-scoring `ratio` of the weights of every layer (or of all layers `together`), in place.

    The same arithmetic as `torch.nn.utils.prune.l1_unstructured` and `global_unstructured`, hence the same masks.
    """
    layers = [m for m in model.modules() if isinstance(m, LAYERS)]
    scores = [score(Stats(m.weight.flatten(1), generator)).flatten() for m in layers]
    for group in [range(len(layers))] if together else [[i] for i in range(len(layers))]:
        flat = torch.cat([scores[i] for i in group])
        mask = torch.ones_like(flat)
        mask[torch.topk(flat, round(ratio * len(flat)), largest=False).indices] = 0
        for i, part in zip(group, mask.split([len(scores[i]) for i in group]), strict=True):
            layers[i].weight.masked_fill_(part.view_as(layers[i].weight) == 0, 0.0)  # not −0.0


def prune_channels(
    model: nn.Module,
    example: Tensor,
    ratio: float,
    score: Callable[[Stats], Tensor],
    together: bool,
    generator: torch.Generator,
) -> nn.Module:
    """A copy without the lowest-scoring `ratio` of the channels of every group (or of all groups `together`).

    All groups are scored before any is cut; at least one channel of each stays. Together, each group's scores are
    first divided by their mean, so that layers of different fan-in compare.
    """
    groups = [g for g in channels.groups(model, example) if not g.frozen]
    scores = [score(Stats(channels.weights(model, g), generator)).sum(dim=1) for g in groups]
    if not together:
        keep = {g.name: channels.strongest(s, ratio) for g, s in zip(groups, scores, strict=True)}
        return channels.narrow(model, groups, keep)
    scaled = [s / s.mean().clamp(min=1e-12) for s in scores]
    flat = torch.cat(scaled)
    stays = torch.ones_like(flat, dtype=torch.bool)
    stays[torch.topk(flat, round(ratio * len(flat)), largest=False).indices] = False
    keep = {}
    for g, s, left in zip(groups, scaled, stays.split([len(s) for s in scaled]), strict=True):
        keep[g.name] = left.nonzero().flatten() if left.any() else s.argmax()[None]
    return channels.narrow(model, groups, keep)


@STEPS.register("Prune")
class Prune(Transform):
    """Remove the share `ratio` of a network's weights or channels that a criterion calls least important."""

    sentence: ClassVar[str] = "Remove what matters least. How much can go before the answers change?"
    formula: ClassVar[str] = "keep the top (1 − p) of |w|"

    ratio: Annotated[float, Knob(0.0, 0.99, 0.01, "p")] = Field(
        0.3, ge=0, lt=1, title="Ratio", description="Share of the weights, or of the channels, that goes."
    )
    criterion: Annotated[str, Named(CRITERIA)] = Field("l1", title="Criterion", description="What counts as important.")
    granularity: Literal["weight", "channel"] = Field(
        "channel", title="Remove", description="Single weights leave zeros; channels leave a smaller, faster network."
    )
    scope: Literal["layer", "global"] = Field(
        "layer", title="Scope", description="The same share of every layer, or the least important of all layers."
    )
    recovery: Literal["none", "norms"] = Field(
        "norms", title="Then", description="Re-estimate batch norm's averages on training data, or do nothing."
    )

    def transform(self, model: nn.Module, workload: Workload, generator: torch.Generator, report: Report) -> nn.Module:
        score, together = CRITERIA[self.criterion].function, self.scope == "global"
        if self.granularity == "weight":
            prune_weights(model, self.ratio, score, together, generator)
        else:
            model = prune_channels(model, workload.example, self.ratio, score, together, generator)
        if self.recovery == "norms" and self.ratio > 0:
            model = reestimate_norms(model, workload)
        return model
