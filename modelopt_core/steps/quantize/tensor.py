"""One weight: which points its values may have, and which of them each gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modelopt_core.machine.events import Part, Report
from modelopt_core.models.weight_grid import Codebook, Grid, Points
from modelopt_core.steps.quantize.codebook import shared_values
from modelopt_core.steps.quantize.observers import OBSERVERS
from modelopt_core.steps.quantize.roundings import ROUNDINGS, RoundingContext


@dataclass(frozen=True)
class Scheme:
    """What the points of a weight look like.

    kind: 'symmetric' (2**bits − 1 levels, zero exact; one bit has two), 'affine' (2**bits levels) or 'codebook'
    (2**bits values for the whole tensor); per: 'tensor', 'channel' (the first index) or 'group' (`group` weights in
    a row of a channel; the last of a row may be fewer).
    """

    bits: int
    kind: str = "symmetric"
    per: str = "channel"
    observer: str = "absmax"
    group: int = 0

    @property
    def levels(self) -> int:
        """How many points there are."""
        return 2**self.bits - 1 if self.kind == "symmetric" and self.bits > 1 else 2**self.bits

    def points(self, weight: Tensor) -> Points:
        """The points for a weight (R, …)."""
        if self.kind == "codebook":
            return shared_values(weight, self.levels)
        rows = weight.reshape(1, -1) if self.per == "tensor" else weight.flatten(1)
        if self.per != "group":
            return Grid(*self._observed(rows), self.levels)
        whole = rows.shape[1] - rows.shape[1] % self.group
        runs = [rows[:, :whole].reshape(-1, self.group), rows[:, whole:]]  # the tail by itself
        found = [self._observed(some) for some in runs if some.numel()]
        scale, zero_point = (torch.cat([pair[i].reshape(len(rows), -1) for pair in found], dim=1) for i in (0, 1))
        return Grid(scale, zero_point, self.levels, self.group)

    def _observed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """scale (R,), zero_point (R,) of rows (R, n)."""
        observe, symmetric = OBSERVERS[self.observer], self.kind == "symmetric"
        scale, zero_point = observe(torch.cat([rows, -rows], dim=1) if symmetric else rows, self.levels)
        middle = torch.full_like(scale, (self.levels - 1) / 2)
        return scale, middle if symmetric else zero_point.round().clamp(0, self.levels - 1)


def quantize_tensor(
    weight: Tensor,
    scheme: Scheme,
    rounding: str,
    generator: torch.Generator,
    report: Report,
    inputs: Tensor | None = None,
) -> tuple[Tensor, Points]:
    """weight (R, …) -> (values on the points, of the same shape, and the points). What is zero stays.

    inputs: (groups, N, n), what each group of a convolution's channels meets (else one group), where the rounding asks.
    """
    points, rows = scheme.points(weight), weight.flatten(1)
    if isinstance(points, Codebook):
        return points.values(points.nearest(weight)), points
    gone = rows == 0
    each = (rows, *(t.expand(len(rows), -1) for t in points.rows(rows)), gone)
    groups = 1 if inputs is None else len(inputs)
    codes = []
    for i, (w, s, z, off) in enumerate(zip(*(t.chunk(groups) for t in each), strict=True)):
        met, off = None if inputs is None else inputs[i], off if bool(off.any()) else None
        context = RoundingContext(w, s, z, points.levels, generator, Part(report, i, groups), met, off)
        codes.append(context.kept(ROUNDINGS[rounding](context)))
    return points.values(torch.cat(codes)).view_as(weight), points
