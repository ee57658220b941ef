"""What bounds can't say of a step's field: one function each, value -> value or a ModelOptError.

They are named in the shipped schema (schema.py) and run before PyTorch is imported, so none needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from modelopt_core.errors import ModelOptError

BITS = (*range(1, 9), 16)  # of a weight on a grid
FLOATS = 32  # the bits of a layer that is left alone
N = TypeVar("N", int, float)  # what a layer may have of its own
Pairs = tuple[tuple[str, N], ...]


def pairs(value: Any) -> Any:
    """A mapping as (name, value) pairs, before a field of pairs is checked."""
    return tuple(value.items()) if isinstance(value, dict) else value


def layer_ratios(value: Pairs[float]) -> Pairs[float]:
    """Of Prune: a share for each layer, in order of names."""
    for layer, ratio in value:
        if not 0 <= ratio < 1:
            raise ModelOptError(f"Prune: ratio {ratio:g} of {layer} is not allowed; it must be ≥ 0 and < 1")
    return _once_each(value, "Prune: ratios name a layer twice; give each layer one ratio")


def names(value: tuple[str, ...]) -> tuple[str, ...]:
    """Each name once, in order."""
    return tuple(sorted(set(value)))


def bits(value: int) -> int:
    """Of Quantize: those that a grid can have."""
    if value not in BITS:
        raise ModelOptError(f"Quantize: bits={value} is not allowed; bits must be a whole number ≥ 1 and ≤ 8, or 16")
    return value


def activation_bits(value: int) -> int:
    """Of Quantize: one bit is no grid for what layers read."""
    if value == 1:
        raise ModelOptError("Quantize: activations=1 is not allowed; choose 2 to 8 bits, or 0 for none")
    return value


def layer_bits(value: Pairs[int]) -> Pairs[int]:
    """Of Quantize: a number of bits for each layer, in order of names."""
    for layer, found in value:
        if found not in (*BITS, FLOATS):
            raise ModelOptError(f"Quantize: {found} bits for {layer} are not allowed; choose from 1 to 8, 16 and 32")
    return _once_each(value, "Quantize: layer_bits name a layer twice; give each layer one number of bits")


def votes(value: tuple[float, ...]) -> tuple[float, ...]:
    """Of Ensemble: weights that can be scaled to sum to 1."""
    return _weights(value, "Ensemble", "nobody would be asked")


def shares(value: tuple[float, ...]) -> tuple[float, ...]:
    """Of Fuse: weights that can be scaled to sum to 1."""
    return _weights(value, "Fuse", "nothing would be left")


def strengths(value: tuple[float, ...]) -> tuple[float, ...]:
    """Of Fuse: pulls of a head."""
    if wrong := [s for s in value if s <= 0]:
        raise ModelOptError(f"Fuse: a strength of {wrong[0]:g} is not allowed; strengths are numbers above 0")
    return value


def thresholds(value: tuple[float, ...]) -> tuple[float, ...]:
    """Of Cascade: how sure each stage must be."""
    if wrong := [t for t in value if not 0 <= t <= 1]:
        raise ModelOptError(f"Cascade: a threshold of {wrong[0]:g} is not allowed; thresholds are numbers ≥ 0 and ≤ 1")
    return value


def stages(value: tuple[str, ...]) -> tuple[str, ...]:
    """Of Pipeline: several, each once."""
    if not value:
        raise ModelOptError("Pipeline has no stages; name at least 2, such as groups and experts")
    if len(value) == 1:
        raise ModelOptError(
            f"Pipeline has one stage, {value[0]!r}, which is a model by itself; name at least 2, such as groups and "
            "experts"
        )
    if twice := [name for name in value if value.count(name) > 1]:
        raise ModelOptError(f"Pipeline has the stage {twice[0]!r} twice; name it once")
    return value


def _once_each(value: Pairs[N], twice: str) -> Pairs[N]:
    """In order of names; a name that is there twice is an error that says `twice`."""
    if len({name for name, _ in value}) < len(value):
        raise ModelOptError(twice)
    return tuple(sorted(value))


def _weights(value: Sequence[float], step: str, nothing: str) -> tuple[float, ...]:
    if wrong := [w for w in value if w < 0]:
        raise ModelOptError(f"{step}: a weight of {wrong[0]:g} is not allowed; weights are numbers ≥ 0")
    if value and not sum(value) > 0:
        raise ModelOptError(f"{step}: all weights are zero, {nothing}; give one model a weight")
    return tuple(value)
