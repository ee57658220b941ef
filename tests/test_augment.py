"""What is done to a batch, on inputs whose result can be said by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modelopt_core.augment import drop_words, shift


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
