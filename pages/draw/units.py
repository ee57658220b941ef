"""How numbers are written on the screen: units, a real minus sign, and spaces that do not break."""

from __future__ import annotations

import math

from modelopt_core.tasks.statistics import Estimate

SPACE = "\N{NO-BREAK SPACE}"
MINUS, TIMES, DASH = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def percent(share: float) -> str:
    """0.9721 → 97.2 %"""
    return f"{100 * share:.1f}{SPACE}%"


def percent_interval(estimate: Estimate) -> str:
    """95.0 – 98.5 %"""
    return f"{100 * estimate.low:.1f}{SPACE}{DASH}{SPACE}{percent(estimate.high)}"


def points(delta: float) -> str:
    """A change of a share in percentage points: -0.008 → − 0.8 pt"""
    rounded = round(100 * delta, 1)
    sign = "±" if rounded == 0 else MINUS if rounded < 0 else "+"
    return f"{sign}{SPACE}{abs(rounded):.1f}{SPACE}pt"


def size(count: float) -> str:
    """Bytes in decimal units: 23400 → 23.4 kB"""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if count < limit:
            return f"{_digits(1e3 * count / limit) if unit != 'B' else f'{count:.0f}'}{SPACE}{unit}"
    return f"{_digits(count / 1e9)}{SPACE}GB"


def milliseconds(value: float) -> str:
    """0.0412 → 0.041 ms; the last digit shown is about what a median of 25 timings can carry."""
    return f"{_milliseconds(value)}{SPACE}ms"


def milliseconds_interval(estimate: Estimate) -> str:
    """0.040 – 0.044 ms"""
    return f"{_milliseconds(estimate.low)}{SPACE}{DASH}{SPACE}{milliseconds(estimate.high)}"


def decibels(ratio: float) -> str:
    """17.24 → 17.2 dB; infinity, where nothing was lost, in words."""
    return "no error" if math.isinf(ratio) else f"{ratio:.1f}{SPACE}dB"


def duration(seconds: float) -> str:
    """3.2 → 3 s, 75 → 1 min 15 s, 7300 → 2 h 2 min"""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min" + (f" {whole % 60}{SPACE}s" if whole % 60 else "")
    return f"{whole // 3600}{SPACE}h" + (f" {whole % 3600 // 60}{SPACE}min" if whole % 3600 >= 60 else "")


def whole(count: float) -> str:
    """21386 → 21,386"""
    return f"{round(count):,}"


def short(count: float) -> str:
    """A count at a glance: 21386 → 21 k, 0 → 0"""
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M")):
        if count < limit:
            return f"{round(1e3 * count / limit) if unit else round(count)}{SPACE if unit else ''}{unit}"
    return f"{count / 1e9:.1f}{SPACE}G"


def ratio(factor: float) -> str:
    """3.62 → 3.6 ×"""
    return f"{_digits(factor, 2)}{SPACE}{TIMES}"


def change(factor: float, more: str, less: str, same: str) -> str:
    """A factor as words: 3.6 → '3.6 × smaller', 0.5 → '2.0 × larger', within half a per cent → 'same size'."""
    if abs(factor - 1) < 0.005 or factor <= 0:
        return same
    return f"{ratio(factor)} {more}" if factor > 1 else f"{ratio(1 / factor)} {less}"


def speed(factor: Estimate) -> str:
    """A paired speed-up; where its quartiles lie on both sides of 1, or it rounds to 1.0, nothing is claimed."""
    if factor.low <= 1 <= factor.high or abs(factor.value - 1) < 0.05:
        return "same speed"
    return change(factor.value, "faster", "slower", "same speed")


def knob(value: float, step: float) -> str:
    """A knob's value with as many decimals as its step has: 0.5, 0.01 → 0.50"""
    decimals = len(f"{step:.10f}".rstrip("0").split(".")[1])
    return f"{value:.{decimals}f}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _digits(value: float, significant: int = 3) -> str:
    """At least `significant` digits, one decimal at most for 2, never in scientific notation."""
    decimals = max(0, significant - 1 - (0 if value < 1 else len(str(int(value))) - 1))
    return f"{value:,.{decimals}f}"
