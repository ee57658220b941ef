"""What is done to a batch, on inputs whose result can be said by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modelopt_core.workloads.augment import drop_words, shift, speckle


def test_shift_moves_whole_images_and_brings_zeros_in() -> None:
    image = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    padded = np.pad(image.numpy()[0, 0], 1)
    windows = {padded[i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(3)}
    moved = shift(image.expand(200, 1, 3, 3), torch.Generator().manual_seed(0), pixels=1)
    assert {m[0].contiguous().numpy().tobytes() for m in moved} == windows
    assert torch.equal(shift(image, torch.Generator(), pixels=0), image)


def test_drop_words_only_ever_pads() -> None:
    tokens = torch.ones(100, 50, dtype=torch.int64)
    dropped = drop_words(tokens, torch.Generator().manual_seed(0), share=0.3)
    assert set(dropped.unique().tolist()) == {0, 1}
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_speckle_is_as_much_black_as_white() -> None:
    """Of grey pixels a quarter changes, half of them to each side."""
    grey = torch.full((10, 1, 50, 50), 0.5)
    found = speckle(grey, torch.Generator().manual_seed(0))
    shares = [float((found == value).float().mean()) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.125, 0.75, 0.125], abs=0.01)
    assert (grey == 0.5).all()
