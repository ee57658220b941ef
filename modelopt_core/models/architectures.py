"""Architectures, by name: the allow-list that files and weights may ask for.

Every architecture is a function of plain JSON arguments that returns an ``nn.Module`` written as a student would
read it, and declares which of them are widths. structure/build.py makes one from a `Spec`.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from modelopt_core.models import denoiser as denoiser  # registers it
from modelopt_core.models.spec import ARCHITECTURES as ARCHITECTURES


@ARCHITECTURES.register("mlp", widths=("sizes",))
def mlp(sizes: tuple[int, ...]) -> nn.Module:
    """Flatten, then Linear layers with ReLU between them: (B, …) -> (B, sizes[-1]).

    sizes: inputs, hidden widths, classes. LeNet-300-100 is (784, 300, 100, 10).
    """
    if not isinstance(sizes, tuple) or len(sizes) < 2:
        raise ValueError(f"sizes={sizes} must be a tuple of inputs, hidden widths and classes")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}  # (B, sizes[0])
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        if i > 1:
            layers[f"relu{i - 1}"] = nn.ReLU()
        layers[f"fc{i}"] = nn.Linear(inputs, outputs)  # (B, sizes[i])
    return nn.Sequential(OrderedDict(layers))


class Cnn(nn.Module):
    """Two 3×3 convolutions with batch norm for 8×8 images."""

    def __init__(self, width1: int, width2: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width1, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width1)
        self.conv2 = nn.Conv2d(width1, width2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width2)
        self.fc1 = nn.Linear(width2 * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # (B, width1, 8, 8)
        x = F.relu(self.bn2(self.conv2(x)))  # (B, width2, 8, 8)
        x = F.max_pool2d(x, 2)  # (B, width2, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))  # (B, hidden)
        return self.fc2(x)  # (B, classes)


@ARCHITECTURES.register("cnn", widths=("width1", "width2", "hidden"))
def cnn(width1: int = 16, width2: int = 32, hidden: int = 32, classes: int = 10) -> nn.Module:
    """Convolution, batch norm, ReLU, twice; pool; two linear layers: (B, 1, 8, 8) -> (B, classes)."""
    return Cnn(width1, width2, hidden, classes)


class LeNet5(nn.Module):
    """The LeNet-5 of the compression literature: 20 and 50 maps, 500 units, ReLU.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998; widths as in Caffe's example.
    """

    def __init__(self, width1: int, width2: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width1, 5)
        self.conv2 = nn.Conv2d(width1, width2, 5)
        self.fc1 = nn.Linear(width2 * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (B, width1, 12, 12)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, width2, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))  # (B, hidden)
        return self.fc2(x)  # (B, classes)


@ARCHITECTURES.register("lenet5", widths=("width1", "width2", "hidden"))
def lenet5(width1: int = 20, width2: int = 50, hidden: int = 500, classes: int = 10) -> nn.Module:
    """Two 5×5 convolutions, each ReLU and 2×2 max pooling, then two linear layers: (B, 1, 28, 28) -> (B, classes)."""
    return LeNet5(width1, width2, hidden, classes)


class Article(nn.Module):
    """Two 5×5 convolutions and one linear layer, small enough to look at every weight."""

    def __init__(self, width1: int, width2: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width1, 5)
        self.conv2 = nn.Conv2d(width1, width2, 5)
        self.fc = nn.Linear(width2 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (B, width1, 12, 12)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, width2, 4, 4)
        return self.fc(x.flatten(1))  # (B, classes)


@ARCHITECTURES.register("article", widths=("width1", "width2"))
def article(width1: int = 20, width2: int = 20, classes: int = 10) -> nn.Module:
    """Two 5×5 convolutions, each ReLU and 2×2 max pooling, then one linear layer: (B, 1, 28, 28) -> (B, classes)."""
    return Article(width1, width2, classes)


class Bag(nn.Module):
    """Mean of word vectors, then two linear layers. Token 0 is padding.

    Source: Joulin et al., Bag of Tricks for Efficient Text Classification, arXiv 1607.01759.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(2)  # (B, L, 1)
        x = (self.embedding(tokens) * mask).sum(1)  # (B, width)
        x = x / mask.sum(1).clamp(min=1)  # mean over the words; an empty text gives zeros
        x = F.relu(self.fc1(x))  # (B, hidden)
        return self.fc2(x)  # (B, classes)


@ARCHITECTURES.register("bag", widths=("width", "hidden"))
def bag(vocabulary: int = 4096, width: int = 32, hidden: int = 32, classes: int = 2) -> nn.Module:
    """Mean of word vectors, ReLU layer, linear layer: (B, L) token ids -> (B, classes)."""
    return Bag(vocabulary, width, hidden, classes)


class TextCnn(nn.Module):
    """Filters slide over word vectors; the strongest match of each decides. Token 0 is padding.

    Source: Kim, Convolutional Neural Networks for Sentence Classification, arXiv 1408.5882.
    """

    def __init__(self, vocabulary: int, width: int, filters: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.conv1 = nn.Conv1d(width, filters, kernel, padding=kernel // 2)
        self.fc = nn.Linear(filters, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(1)  # (B, 1, L)
        x = self.embedding(tokens).transpose(1, 2) * mask  # (B, width, L)
        x = F.relu(self.conv1(x)) * mask  # (B, filters, L); after ReLU 0 never beats a match
        x = x.amax(2)  # (B, filters)
        return self.fc(x)  # (B, classes)


@ARCHITECTURES.register("textcnn", widths=("width", "filters"))
def textcnn(vocabulary: int = 4096, width: int = 32, filters: int = 64, kernel: int = 5, classes: int = 2) -> nn.Module:
    """Word vectors, 1-D convolution, ReLU, maximum over time, linear layer: (B, L) token ids -> (B, classes)."""
    if kernel % 2 == 0:
        raise ValueError(f"kernel={kernel} must be odd, so that every word has a place in the output")
    return TextCnn(vocabulary, width, filters, kernel, classes)
