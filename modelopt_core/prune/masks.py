"""From scores to what goes: single weights, n of every m, blocks, whole channels.

Everything but n:m is one choice: rank the units of a layer, or of all layers together, and take the lowest share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modelopt_core import channels
from modelopt_core.channels import Group
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.events import Note, Report, silent
from modelopt_core.layers import WEIGHTED
from modelopt_core.prune.scores import Scorer


@dataclass(frozen=True)
class Plan:
    """How much goes: `ratio` of every layer, or of all layers `together`. own: layer -> its own ratio; 0 is frozen."""

    ratio: float
    together: bool = False
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """The ratio of one layer."""
        return self.own.get(name, self.ratio)


def lowest(scores: Tensor, ratio: float) -> Tensor:
    """(N,) scores -> (N,) bool: the `ratio` of them that go, by the arithmetic of `torch.nn.utils.prune`: its masks."""
    goes = torch.zeros_like(scores, dtype=torch.bool)
    goes[torch.topk(scores, round(ratio * len(scores)), largest=False).indices] = True
    return goes


def choose(scores: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Scores of any shape per layer -> bool, same shapes: what goes. Layers with a ratio of their own are apart."""
    shared = [name for name in scores if name not in plan.own]
    pools = [[name] for name in scores if name in plan.own or not plan.together] + [shared] * plan.together
    goes = {}
    for pool in filter(None, pools):
        parts = lowest(torch.cat([scores[n].flatten() for n in pool]), plan.of(pool[0]))
        for name, part in zip(pool, parts.split([scores[n].numel() for n in pool]), strict=True):
            goes[name] = part.view_as(scores[name])
    return goes


def n_of_m(matrix: Tensor, n: int, m: int) -> Tensor:
    """(R, K) scores -> (R, K) bool: all but the n highest of every m consecutive go; a tail keeps up to n too."""
    rows, width = matrix.shape
    runs = nn.functional.pad(matrix, (0, -width % m), value=-torch.inf).view(rows, -1, m)
    goes = torch.zeros_like(runs, dtype=torch.bool)
    goes.scatter_(2, runs.topk(m - n, dim=2, largest=False).indices, True)
    return goes.view(rows, -1)[:, :width]


def stays_of(ratio: float, m: int) -> int:
    """n of n:m: how many of m stay when about `ratio` of them go; at least one."""
    return max(1, m - round(ratio * m))


def block_means(matrix: Tensor, size: int) -> Tensor:
    """(R, K) -> (⌈R / size⌉, ⌈K / size⌉): mean score of every block; blocks at the edge are smaller."""
    pooled = nn.functional.avg_pool2d(matrix[None, None], size, ceil_mode=True, count_include_pad=False)
    return pooled[0, 0]


def as_matrix(tensor: Tensor) -> Tensor:
    """Weight (out, in, *kernel) -> (out, kernel · in): neighbours are neighbouring inputs, as hardware has them."""
    return tensor.movedim(1, -1).flatten(1)


def as_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """`as_matrix` undone: (out, kernel · in) -> the shape of `weight`."""
    return matrix.view(weight.movedim(1, -1).shape).movedim(-1, 1)


def prune_weights(model: nn.Module, plan: Plan, scorer: Scorer, granularity: str = "weight", size: int = 4) -> None:
    """Zero the lowest-scoring weights in place. granularity: weight, n:m (m = size) or block (size × size)."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)}
    for name in plan.own:
        if name not in layers:
            raise unknown("layer", name, layers)
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items() if plan.of(name) > 0}
    scores = {name: scorer.layer(name).view_as(weight) for name, weight in weights.items()}
    if granularity == "weight":
        goes = choose(scores, plan)
    else:
        matrices = {name: as_matrix(s) for name, s in scores.items()}
        if granularity == "n:m":
            lying = {name: n_of_m(s, stays_of(plan.of(name), size), size) for name, s in matrices.items()}
        else:
            blocks = choose({name: block_means(s, size) for name, s in matrices.items()}, plan)
            lying = {name: _spread(blocks[name], size, s) for name, s in matrices.items()}
        goes = {name: as_weight(lying[name], weight) for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.masked_fill_(goes[name], 0.0)  # not −0.0


def _spread(blocks: Tensor, size: int, matrix: Tensor) -> Tensor:
    """A bool per block -> one per entry of the matrix (R, K)."""
    rows, width = matrix.shape
    return blocks.repeat_interleave(size, dim=0)[:rows].repeat_interleave(size, dim=1)[:, :width]


def prune_channels(model: nn.Module, example: Tensor, plan: Plan, scorer: Scorer, report: Report = silent) -> nn.Module:
    """A copy without the lowest-scoring channels. All groups are scored before any is cut; one of each stays at least.

    Together, each group's scores are first divided by their mean, so that layers of different fan-in compare; unless
    the criterion says that its scores compare as they are.
    """
    found = channels.groups(model, example)
    plan = Plan(plan.ratio, plan.together, _own_of_groups(model, found, plan.own))
    asked = [g for g in found if not g.frozen and plan.of(g.name) > 0]
    groups = scorer.scored(asked)
    if alone := [g.name for g in asked if g not in groups]:
        report(Note(f"{', '.join(alone)}: left alone, {scorer.criterion.name} needs batch norm there"))
    scores = {g.name: scorer.group(g) for g in groups}
    if plan.together and not scorer.comparable:
        scores = {name: s / s.mean().clamp(min=1e-12) for name, s in scores.items()}
    keep = {}
    for name, goes in choose(scores, plan).items():
        keep[name] = (~goes).nonzero().flatten()
        if goes.all():
            keep[name] = scores[name].argmax()[None]
            report(Note(f"{name}: one channel stays, a layer can't be empty"))
    return channels.narrow(model, found, keep)


def _own_of_groups(model: nn.Module, groups: list[Group], own: Mapping[str, float]) -> dict[str, float]:
    """Group name -> its own ratio. A layer's name stands for its group; layers of one group can't differ."""
    names = {g.name: [g] for g in groups}
    for g in groups:
        for maker in g.makers:
            if maker not in names or names[maker][0].name != maker:
                names.setdefault(maker, []).append(g)
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            names.setdefault(name, [])  # makes no channels that are followed: nothing goes
    found: dict[str, float] = {}
    for layer, ratio in own.items():
        if layer not in names:
            raise unknown("layer", layer, names)
        why = next(
            (g.frozen for g in names[layer] if g.frozen), "" if names[layer] else "the walk does not follow them"
        )
        if ratio > 0 and why:
            raise ModelOptError(f"channels of {layer} can't be cut: {why}; take its ratio out")
        for g in names[layer]:
            if found.setdefault(g.name, ratio) != ratio:
                others = ", ".join(m for m in g.makers if m != layer)
                raise ModelOptError(f"{layer} is coupled with {others}, whose ratio differs; give them one")
    return found
