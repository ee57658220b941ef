"""The front of LeNet-5 as a chart: test error over bytes of the file, as an SVG without any library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 470
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 24, 92
BYTES, ERRORS = (1_000, 60_000), (0.6, 7.0)  # both axes are logarithmic
SIZE_TICKS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
ERROR_TICKS = (0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)
BESIDE = {
    "MIRACLE": (8, 17),
    "Bayesian Compression": (8, -20),
    "Deep Compression": (-10, -8),
}  # px: names clear of marks
INK, MUTED, LINE, OURS = "#0f172a", "#5b677a", "#e2e8f0", "#ea580c"


@dataclass(frozen=True)
class Point:
    """Files of one recipe. size_bytes, errors: one for each seed, errors in %."""

    name: str
    size_bytes: Sequence[int]
    errors: Sequence[float]

    @property
    def mean(self) -> tuple[float, float]:
        """(bytes, error) over the seeds."""
        return sum(self.size_bytes) / len(self.size_bytes), sum(self.errors) / len(self.errors)


def svg(ours: Sequence[Point], published: Sequence[tuple[str, int, float]], baseline: float) -> str:
    """Our points, each seed and a line through their means; published (name, bytes, error); the baseline's error."""
    parts = [*_axes(), *_baseline(baseline)]
    means = sorted(point.mean for point in ours)
    parts.append(f'<polyline points="{" ".join(map(_at, means))}" fill="none" stroke="{OURS}" stroke-width="1.5"/>')
    for point in ours:
        for size, error in zip(point.size_bytes, point.errors, strict=True):
            parts.append(_dot(size, error, 3.5, f'fill="{OURS}" fill-opacity="0.35"', ""))
        size, error = point.mean
        told = f"{point.name}: {size:,.0f} bytes, {error:.2f} %, {len(point.errors)} seeds"
        parts.append(_dot(size, error, 5.5, f'fill="{OURS}" stroke="#ffffff" stroke-width="1.5"', told))
    for name, size, error in published:
        parts.append(_dot(size, error, 5.5, f'fill="#ffffff" stroke="{INK}" stroke-width="2"', name))
        parts.append(_beside(name, size, error))
    parts += _key(ours)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" '
        f'font-size="13" role="img"><title>LeNet-5 on MNIST: test error over bytes of one file</title>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def x(size: float) -> float:
    """Bytes → pixels from the left."""
    return LEFT + math.log(size / BYTES[0]) / math.log(BYTES[1] / BYTES[0]) * (WIDTH - LEFT - RIGHT)


def y(error: float) -> float:
    """Per cent → pixels from the top."""
    return HEIGHT - BOTTOM - math.log(error / ERRORS[0]) / math.log(ERRORS[1] / ERRORS[0]) * (HEIGHT - TOP - BOTTOM)


def _at(point: tuple[float, float]) -> str:
    return f"{x(point[0]):.1f},{y(point[1]):.1f}"


def _dot(size: float, error: float, radius: float, paint: str, told: str) -> str:
    title = f"<title>{escape(told)}</title>" if told else ""
    return f'<circle cx="{x(size):.1f}" cy="{y(error):.1f}" r="{radius}" {paint}>{title}</circle>'


def _text(left: float, top: float, text: str, *, anchor: str = "middle", paint: str = MUTED, more: str = "") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="{paint}"{more}>{escape(text)}</text>'


def _beside(name: str, size: float, error: float) -> str:
    right, down = BESIDE.get(name, (10, 4.5))
    return _text(x(size) + right, y(error) + down, name, anchor="start" if right > 0 else "end", paint=INK)


def _axes() -> list[str]:
    right, bottom, parts = WIDTH - RIGHT, HEIGHT - BOTTOM, []
    for error in ERROR_TICKS:
        parts.append(f'<path d="M{LEFT} {y(error):.1f}H{right}" stroke="{LINE}"/>')
        parts.append(_text(LEFT - 8, y(error) + 4.5, f"{error:.1f} %", anchor="end"))
    for size in SIZE_TICKS:
        parts.append(f'<path d="M{x(size):.1f} {TOP}V{bottom}" stroke="{LINE}"/>')
        parts.append(_text(x(size), bottom + 18, f"{size // 1000} kB"))
    parts.append(_text((LEFT + right) / 2, bottom + 40, "bytes of the file"))
    middle = (TOP + bottom) / 2
    return [*parts, _text(16, middle, "test error", more=f' transform="rotate(-90 16 {middle:.1f})"')]


def _baseline(error: float) -> list[str]:
    at, right = y(error), WIDTH - RIGHT
    return [
        f'<path d="M{LEFT} {at:.1f}H{right}" stroke="{INK}" stroke-dasharray="2 4"/>',
        _text(right - 4, at + 16, f"LeNet-5 as float32: {error:.2f} %", anchor="end"),
    ]


def _key(ours: Sequence[Point]) -> list[str]:
    """What the marks mean, in one line below the axis."""
    at = HEIGHT - 22
    seeds = max(len(point.errors) for point in ours)
    marks = (
        (LEFT + 8, f'r="5.5" fill="{OURS}"', f"these recipes: mean, and each of up to {seeds} seeds"),
        (
            LEFT + 400,
            f'r="5.5" fill="#ffffff" stroke="{INK}" stroke-width="2"',
            "published (arXiv 1810.00440, Table 1)",
        ),
    )
    return [
        part
        for left, paint, text in marks
        for part in (f'<circle cx="{left}" cy="{at}" {paint}/>', _text(left + 12, at + 4.5, text, anchor="start"))
    ]
