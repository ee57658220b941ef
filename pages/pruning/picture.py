"""A layer's weights as a small picture: the larger, the darker; what goes is painted over."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEVELS = 64  # of ink, and as many of paint: the palette's 256 colours hold both
MOST = (160, 240)  # pixels, rows and columns: some 30 kB
TILES = 8  # kernels side by side where there is one input
FAINTEST = 0.35  # opacity of the paint over a weight of zero: what is gone is seen

Weights = NDArray[np.float32]
Mask = NDArray[np.bool_]


def png(weight: Weights, gone: Mask, ink: str, paint: str) -> str:
    """A data URI. weight, gone: (out, in, *kernel); ink, paint: #rrggbb of what stays and of what goes."""
    size, share, within = (shrunk(laid_out(part)) for part in (np.abs(weight), gone, np.ones_like(gone)))
    level = np.sqrt(size / max(float(size.max()), 1e-12))  # small weights are seen, too
    index = np.round((LEVELS - 1) * np.clip(level, 0, 1)).astype(np.uint8)
    index = np.where(share >= 0.5, index + LEVELS, index)
    index = np.where(within < 0.5, 2 * LEVELS, index).astype(np.uint8)  # the ground between kernels
    image = Image.fromarray(index, "P")
    image.putpalette([*_rgb(ink) * LEVELS, *_rgb(paint) * LEVELS, 0, 0, 0])
    steps = [i / (LEVELS - 1) for i in range(LEVELS)]
    alphas = [round(255 * a) for a in (*steps, *(FAINTEST + (1 - FAINTEST) * a for a in steps), 0)]
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes(alphas), optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def laid_out(weight: NDArray[np.generic]) -> NDArray[np.float64]:
    """(out, in, *kernel) -> (rows, columns), 0 between kernels.

    A matrix lies as it is, the longer side across. Kernels are tiles: a row an output, a column an input; with one
    input they are set side by side.
    """
    numbers = weight.astype(np.float64)
    if numbers.ndim == 2:
        return numbers.T if numbers.shape[0] > numbers.shape[1] else numbers
    tiles = numbers.reshape(*numbers.shape[:2], -1, numbers.shape[-1])  # (out, in, h, w)
    out, inputs, height, width = tiles.shape
    if inputs == 1:
        rows = -(-out // TILES)
        side = min(out, TILES)
        padded = np.zeros((rows * side, height, width))
        padded[:out] = tiles[:, 0]
        tiles = padded.reshape(rows, side, height, width)
    spaced = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)))
    flat = spaced.transpose(0, 2, 1, 3).reshape(tiles.shape[0] * (height + 1), tiles.shape[1] * (width + 1))
    return flat[:-1, :-1]


def shrunk(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over blocks, so that at most MOST pixels are left; a block that would be cut off is padded."""
    steps = [-(-side // most) for side, most in zip(picture.shape, MOST, strict=True)]
    if steps == [1, 1]:
        return picture
    pads = [(0, -side % step) for side, step in zip(picture.shape, steps, strict=True)]
    padded = np.pad(picture, pads, mode="edge")
    rows, columns = (side // step for side, step in zip(padded.shape, steps, strict=True))
    return padded.reshape(rows, steps[0], columns, steps[1]).mean(axis=(1, 3))


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
