"""From scores to what goes: single weights, n of every m, blocks.

Everything but n:m is one choice: rank the units of a layer, or of all layers together, and take the lowest share. What
went in an earlier round scores −∞, so it goes again, and a ratio is always one of the original network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from modelopt_core.errors import unknown
from modelopt_core.steps.prune.scores import Scorer
from modelopt_core.structure.layer_table import WEIGHTED

Masks = Mapping[str, Tensor]  # layer -> bool, shaped like its weight: what goes


@dataclass(frozen=True)
class Plan:
    """How much goes: `ratio` of every layer, or of all layers `together`. own: layer -> its own ratio; 0 is frozen."""

    ratio: float
    together: bool = False
    own: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str) -> float:
        """The ratio of one layer."""
        return self.own.get(name, self.ratio)

    def part(self, share: float) -> Plan:
        """The plan of a round after which `share` of all that goes is gone."""
        return replace(self, ratio=share * self.ratio, own={name: share * ratio for name, ratio in self.own.items()})


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


def block_means(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    """(R, K) -> (⌈R / r⌉, ⌈K / c⌉): mean score of every block of r × c; blocks at the edge are smaller."""
    pooled = nn.functional.avg_pool2d(matrix[None, None], block, ceil_mode=True, count_include_pad=False)
    return pooled[0, 0]


def as_matrix(tensor: Tensor) -> Tensor:
    """Weight (out, in, *kernel) -> (out, kernel · in): neighbours are neighbouring inputs, as hardware has them."""
    return tensor.movedim(1, -1).flatten(1)


def as_weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """`as_matrix` undone: (out, kernel · in) -> the shape of `weight`."""
    return matrix.view(weight.movedim(1, -1).shape).movedim(-1, 1)


def prune_weights(
    model: nn.Module,
    plan: Plan,
    scorer: Scorer,
    granularity: str = "weight",
    block: tuple[int, int] = (4, 4),
    gone: Masks = MappingProxyType({}),
) -> Masks:
    """Zero the lowest-scoring weights in place. granularity: weight, n:m or block.

    block: rows × columns of one, of weights laid out by `as_matrix`; its columns are the m of n:m. gone: what earlier
    rounds returned. Returns layer -> bool, shaped like its weight: what is gone now.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)}
    for name in plan.own:
        if name not in layers:
            raise unknown("layer", name, layers)
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items() if plan.of(name) > 0}
    scores = {name: scorer.layer(name).view_as(weight) for name, weight in weights.items()}
    scores = {name: s.masked_fill(gone[name], -torch.inf) if name in gone else s for name, s in scores.items()}
    if granularity == "weight":
        goes = choose(scores, plan)
    else:
        matrices = {name: as_matrix(s) for name, s in scores.items()}
        if granularity == "n:m":
            m = block[1]
            lying = {name: n_of_m(s, stays_of(plan.of(name), m), m) for name, s in matrices.items()}
        else:
            blocks = choose({name: block_means(s, block) for name, s in matrices.items()}, plan)
            lying = {name: _spread(blocks[name], block, s) for name, s in matrices.items()}
        goes = {name: as_weight(lying[name], weight) for name, weight in weights.items()}
    for name, weight in weights.items():
        weight.masked_fill_(goes[name], 0.0)  # not −0.0
    return goes


def _spread(blocks: Tensor, block: tuple[int, int], matrix: Tensor) -> Tensor:
    """A bool per block -> one per entry of the matrix (R, K)."""
    rows, width = matrix.shape
    return blocks.repeat_interleave(block[0], dim=0)[:rows].repeat_interleave(block[1], dim=1)[:, :width]
