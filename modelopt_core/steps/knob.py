"""What a numeric field of a step says about the widget that sets it."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt_core.errors import ModelOptError


@dataclass(frozen=True)
class Knob:
    """Type annotation of a numeric field that the Dial can turn: its range, its step and its symbol in the formula.

    beyond: single settings above the range, rising.
    """

    low: float
    high: float
    step: float
    symbol: str
    beyond: tuple[float, ...] = ()

    @property
    def stops(self) -> list[float]:
        """All settings, rising: low, then a multiple of the step more, up to high; then those beyond."""
        even = [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]
        return [*(round(stop, 10) for stop in even), *self.beyond]

    def nearest(self, value: float) -> float:
        """The stop that is nearest to a value; the lower of two."""
        return min(self.stops, key=lambda stop: abs(stop - value))

    def values(self, points: int) -> list[float]:
        """At most `points` of the stops, evenly spread and with both ends, in the order coarse to fine."""
        if points < 2:
            raise ModelOptError(f"points={points} is not allowed; a curve has 2 ends, so choose 2 points or more")
        stops = self.stops
        stride = max(1, -(-(len(stops) - 1) // (points - 1)))
        ticks = [*range(0, len(stops) - 1, stride), len(stops) - 1]
        order, seen, width = [ticks[0], ticks[-1]], {ticks[0], ticks[-1]}, len(ticks)
        while len(seen) < len(ticks):
            width = max(1, width // 2)
            fresh = [t for t in ticks[::width] if t not in seen]
            order += fresh
            seen.update(fresh)
        return [stops[t] for t in dict.fromkeys(order)]


@dataclass(frozen=True)
class Doublings:
    """Type annotation of a whole number that is set by a slider over powers of two from `low` to `high`."""

    low: int
    high: int

    @property
    def stops(self) -> list[int]:
        """low, then twice as much each, and high."""
        found = [self.low]
        while 2 * found[-1] < self.high:
            found.append(2 * found[-1])
        return [*found, self.high]
