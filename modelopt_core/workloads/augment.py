"""What is done to inputs on purpose: varied before they are learned from, or damaged as the world may do it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelopt_core.tasks import boxes


def shift(images: Tensor, generator: torch.Generator, pixels: int = 2) -> Tensor:
    """Each image moved by up to `pixels` in both directions, zeros moving in: (b, c, h, w) -> (b, c, h, w)."""
    b, _, h, w = images.shape
    padded = nn.functional.pad(images, (pixels,) * 4)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, b, 1, 1), generator=generator)
    rows = torch.arange(h).reshape(1, h, 1) + dy  # (b, h, 1)
    columns = torch.arange(w).reshape(1, 1, w) + dx  # (b, 1, w)
    moved = padded[torch.arange(b).reshape(b, 1, 1), :, rows, columns]  # (b, h, w, c)
    return moved.permute(0, 3, 1, 2)


def drop_words(tokens: Tensor, generator: torch.Generator, share: float = 0.3) -> Tensor:
    """Each word replaced by padding with probability `share`: (b, L) ids -> (b, L) ids.

    Source: Iyyer et al., Deep Unordered Composition Rivals Syntactic Methods, ACL 2015.
    """
    return tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < share, 0)


def speckle(images: Tensor, generator: torch.Generator, share: float = 0.25) -> Tensor:
    """Each pixel made black or white with probability `share`: (b, c, h, w) -> (b, c, h, w). Salt and pepper."""
    drawn = torch.rand(images.shape, generator=generator)
    return torch.where(drawn < share, (drawn < share / 2).to(images.dtype), images)


def scatter(
    images: Tensor, generator: torch.Generator, smallest: float = 0.4, largest: float = 0.7
) -> tuple[Tensor, Tensor]:
    """Each image shrunk and put anywhere in an empty one of its size: (b, c, h, w) -> the same, and boxes (b, 3).

    smallest, largest: of the side that is left, drawn evenly, as is the place; see boxes.py.
    """
    drawn = torch.rand(3, len(images), 1, generator=generator)
    size = smallest + (largest - smallest) * drawn[2]
    put = torch.cat([size / 2 + (1 - size) * drawn[0], size / 2 + (1 - size) * drawn[1], size], dim=1)
    return boxes.place(images, put), put
