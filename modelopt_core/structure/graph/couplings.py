"""Which channels must go together, who touches them, and which must stay.

Every channel that a layer makes gets a number. A sum ties two numbers together (union-find); a layer that touches
channels notes which number lies at which position of its weights. Channels that the same layers touch form a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from modelopt_core.structure.graph.group import Group, Member

NONE = 0  # the number of a position that belongs to no channel that can go


class Couplings:
    """Numbers for channels, ties between them, reasons to stay."""

    def __init__(self) -> None:
        self.parents = [NONE]  # number -> an earlier number of the same class, or itself
        self.reasons: dict[int, str] = {}  # class -> why it must stay
        self.touched: list[tuple[str, str, list[int]]] = []  # (layer, role, number at every position)

    def make(self, size: int) -> Tensor:
        """Numbers (size,) for new channels; `touch` says where they lie in the weights of the layer that makes them."""
        first = len(self.parents)
        self.parents += range(first, first + size)
        return torch.arange(first, first + size)

    def touch(self, layer: str, role: str, ids: Tensor) -> None:
        """Position p of the layer's rows (`out`, `norm`) or columns (`in`) belongs to channel ids[p]."""
        self.touched.append((layer, role, ids.tolist()))

    def class_of(self, number: int) -> int:
        """The number that stands for all channels tied to this one."""
        parents = self.parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def tie(self, rows: Sequence[Tensor] | Tensor, why: str) -> None:
        """Numbers at the same place of every row (L,) go together; tied to a place that stays, they stay: `why`."""
        for row in rows[1:]:
            self._tie(rows[0].tolist(), row.tolist(), why)

    def balance(self, parts: Sequence[Tensor], why: str) -> None:
        """Every part must lose as many: tie the first part's classes to each other part's, in as few ties as it takes.

        Classes of which both have members need no tie for those. The others are tied from the most frequent on, so that
        runs of one length meet: place by place, odd halves (58 channels, then 29) would chain all classes together.
        """
        for part in parts[1:]:
            first, other = (Counter(map(self.class_of, p.tolist())) for p in (parts[0], part))
            both = first & other
            runs = [[c for c, n in (count - both).most_common() for _ in range(n)] for count in (first, other)]
            self._tie(runs[0], runs[1], why)

    def _tie(self, first: list[int], other: list[int], why: str) -> None:
        for x, y in zip(first, other, strict=True):
            x, y = self.class_of(x), self.class_of(y)
            if x == y:
                continue
            if NONE in (x, y):
                self.reasons.setdefault(x or y, why)
                continue
            early, late = min(x, y), max(x, y)
            self.parents[late] = early
            if late in self.reasons:
                self.reasons.setdefault(early, self.reasons.pop(late))

    def freeze(self, ids: Iterable[int], why: str) -> None:
        """These channels must stay; the first reason is kept."""
        for i in ids:
            if i != NONE:
                self.reasons.setdefault(self.class_of(i), why)

    def freeze_layer(self, layer: str, why: str) -> None:
        """All channels that `layer` touches must stay."""
        for name, _, ids in self.touched:
            if name == layer:
                self.freeze(ids, why)

    def groups(self) -> list[Group]:
        """Classes that the same layers touch in the same way, in the order in which they are made."""
        classes = [self.class_of(number) for number in range(len(self.parents))]
        places: list[dict[int, list[int]]] = [{} for _ in classes]  # class -> touch -> positions
        for touch, (_, _, ids) in enumerate(self.touched):
            for position, number in enumerate(ids):
                if number != NONE:
                    places[classes[number]].setdefault(touch, []).append(position)
        alike: dict[object, list[int]] = {}
        for root, touches in enumerate(places):
            if touches:
                pattern = tuple((touch, len(at)) for touch, at in touches.items())
                alike.setdefault((pattern, self.reasons.get(root)), []).append(root)
        found: dict[str, Group] = {}
        for roots in alike.values():
            group = self._group(roots, places)
            if group.name in found:  # a layer whose channels part: the second part is named by its first channel
                first = next(m for m in group.members if m.role == "out").places[0, 0]
                group.name = f"{group.name}[{int(first)}]"
            found[group.name] = group
        return list(found.values())

    def _group(self, roots: list[int], places: list[dict[int, list[int]]]) -> Group:
        members = []
        for touch in places[roots[0]]:
            layer, role, ids = self.touched[touch]
            members.append(Member(layer, role, torch.tensor([places[r][touch] for r in roots]), len(ids)))
        makers = [m for m in members if m.role == "out"]
        why = self.reasons.get(roots[0], "")
        if not why and len(roots) == 1 and makers[0].repeat > 1:
            why = "all of its channels are tied to each other"
        return Group(makers[0].layer, len(roots), members, why)
