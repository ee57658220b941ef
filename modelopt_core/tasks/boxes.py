"""Boxes: square regions of a picture, cut out, put back, and compared.

A box is (centre y, centre x, size), each as a share of the picture's side: (0.5, 0.5, 1) is the whole of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUMBERS = 3  # of one box


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """What lies in the boxes (n, 3), at the size of the whole: images (n, c, h, w) -> (n, c, h, w).

    Bilinear, zeros outside; as two small products a channel, which have gradients and export to every opset.
    Source: Jaderberg et al., Spatial Transformer Networks, arXiv 1506.02025, sec. 3.3.
    """
    return _sampled(images, boxes, boxes.new_ones(len(boxes)), 1)


def place(images: Tensor, boxes: Tensor) -> Tensor:
    """The images shrunk into the boxes (n, 3) of empty pictures, which `crop` undoes: (n, c, h, w) -> (n, c, h, w).

    Each new pixel averages over the pixels that fall on it, so that thin lines do not break.
    """
    centre, size = boxes[:, :2], boxes[:, 2:]
    whole = torch.cat([0.5 + (0.5 - centre) / size, 1 / size], dim=1)  # the empty picture, as a box of the image
    return _sampled(images, whole, 1 / size[:, 0], math.ceil(1 / float(size.min())) if len(size) else 1)


def overlap(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 3) and (n, 3): (n,) in [0, 1]; a box of no size has none.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, sec. 4.2.
    """
    (low, high), (first, last) = edges(found), edges(truth)
    both = (torch.minimum(high, last) - torch.maximum(low, first)).clamp_min(0).prod(dim=1)
    either = (high - low).prod(dim=1) + (last - first).prod(dim=1) - both
    return both / either.clamp_min(torch.finfo(both.dtype).tiny)


def edges(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (n, 3) -> their first corners (y, x) (n, 2) and their last."""
    half = boxes[:, 2:].clamp_min(0) / 2
    return boxes[:, :2] - half, boxes[:, :2] + half


def grid(pixels: int, device: torch.device | None = None) -> Tensor:
    """(pixels,): where the middles of the pixels of one side lie, from −0.5 to 0.5."""
    return (torch.arange(pixels, device=device) + 0.5) / pixels - 0.5


def _sampled(images: Tensor, boxes: Tensor, wide: Tensor, most: int) -> Tensor:
    """New pixels, spread over the boxes (n, 3), each a mean weighed by a triangle of `wide` (n,) pixels either way.

    most: whole pixels that none of `wide` is beyond; a mean at the edge counts zeros outside.
    """
    (h, w), sides, beyond = images.shape[2:], [], 2 * most
    for centre, pixels in ((boxes[:, 0], h), (boxes[:, 1], w)):
        at = (
            centre[:, None] + boxes[:, 2:] * grid(pixels, boxes.device)
        ) * pixels - 0.5  # (n, new), in pixels of the image
        old = torch.arange(-beyond, pixels + beyond, device=boxes.device)
        takes = (1 - (at[:, :, None] - old).abs() / wide[:, None, None]).clamp_min(0)  # (n, new, old)
        sides.append(takes[:, :, beyond:-beyond] / takes.sum(dim=2, keepdim=True).clamp_min(1))
    return sides[0][:, None] @ images @ sides[1][:, None].transpose(2, 3)
