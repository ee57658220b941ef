"""The one architecture that puts out an image: what a pipeline's `repair` runs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from modelopt_core.models.spec import ARCHITECTURES


class Denoiser(nn.Module):
    """Three 3×3 convolutions over the whole image; each pixel is told from the 7×7 around it.

    Source: Zhang et al., Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising, arXiv
    1608.03981 (this one is much smaller, and learns the image instead of the noise).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))  # (B, width, h, w)
        x = F.relu(self.conv2(x))  # (B, width, h, w)
        return self.conv3(x).flatten(1)  # (B, h · w)


@ARCHITECTURES.register("denoiser", widths=("width",))
def denoiser(width: int = 8) -> nn.Module:
    """Three 3×3 convolutions, ReLU between: (B, 1, h, w) with noise -> (B, h · w) pixels without."""
    return Denoiser(width)
