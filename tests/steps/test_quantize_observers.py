"""The grids that `mse` and `entropy` try: all 24, written out in NumPy and SciPy, and the best of them by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from modelopt_core.steps.quantize.observers import OBSERVERS, percentile

SHARES = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68, 0.64, 0.6, 0.56, 0.52, 0.48, 0.44, 0.4, 0.36, 0.32, 0.28,
          0.24, 0.2, 0.16, 0.12, 0.08]  # fmt: skip
BINS = {4: 128, 15: 128, 16: 128, 32: 256, 127: 512, 256: 512}  # levels -> of the histogram


def drawn(levels: int, mirrored: bool, n: int = 900) -> np.ndarray:
    """Three rows with heavy tails, one of them skewed; mirrored: as a symmetric grid gets them."""
    rows = torch.randn(3, n, generator=torch.Generator().manual_seed(levels)) ** 3
    rows[1] = rows[1].abs() - 0.05
    rows = torch.cat([rows, -rows], dim=1) if mirrored else rows
    return rows.numpy()


def grids(row: np.ndarray, levels: int, mirrored: bool) -> list[tuple[float, float]]:
    """(scale, zero point as it will be used) of every share of the range of a row."""
    low, high = min(float(row.min()), 0.0), max(float(row.max()), 0.0)
    scales = [share * (high - low) / (levels - 1) for share in SHARES]
    whole = np.round(-low / scales[0])  # the same for all shares, as both ends shrink alike
    return [(scale, (levels - 1) / 2 if mirrored else float(whole)) for scale in scales]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("levels", [3, 4, 15, 16, 255])
def test_mse_is_the_best_of_24_grids_in_numpy(levels, mirrored):
    rows = drawn(levels, mirrored)
    scale, _ = OBSERVERS["mse"](torch.from_numpy(rows), levels)
    for row, found in zip(rows, scale.tolist(), strict=True):
        tried = grids(row, levels, mirrored)
        errors = [((np.clip(np.round(row / s + z), 0, levels - 1) - z) * s - row) for s, z in tried]
        best = int(np.argmin([float((e.astype(np.float64) ** 2).sum()) for e in errors]))
        assert found == pytest.approx(tried[best][0], rel=1e-5)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("levels", [4, 15, 16, 32, 127, 256])
def test_entropy_is_the_best_of_24_grids_in_scipy(levels, mirrored):
    rows, bins = drawn(levels, mirrored), BINS[levels]
    scale, _ = OBSERVERS["entropy"](torch.from_numpy(rows), levels)
    for row, found in zip(rows, scale.tolist(), strict=True):
        counts, edges = np.histogram(row, bins, (min(row.min(), 0), max(row.max(), 0)))
        centers, costs, tried = (edges[1:] + edges[:-1]) / 2, [], grids(row, levels, mirrored)
        for s, z in tried:
            level = np.clip(np.round(centers / s + z), 0, levels - 1)
            spread = np.zeros(bins)
            for one in np.unique(level):
                there = (level == one) & (counts > 0)
                spread[there] = counts[there].sum() / max(1, there.sum())
            costs.append(float(entropy(counts, spread)))
        chosen = int(np.argmin([abs(found - s) for s, _ in tried]))
        assert found == pytest.approx(tried[chosen][0], rel=1e-5)
        assert costs[chosen] == pytest.approx(min(costs), rel=1e-4)
        assert max(costs) > 1.5 * min(costs)


def test_mse_of_three_weights_by_hand():
    """0, 1 and 10 on the points 0, s, 2 s, 3 s: at s = 10/3 the 1 becomes 0, an error of 1, and no smaller s has less.

    With fifty ones the error of 0 < s < 2 is 50 (s − 1)² + (10 − 3 s)², least at 160/118, a share of 0.407.
    """
    few, many = torch.tensor([[0.0, 1.0, 10.0]]), torch.tensor([[0.0, *[1.0] * 50, 10.0]])
    assert OBSERVERS["mse"](few, 4)[0].tolist() == pytest.approx([10 / 3])
    assert OBSERVERS["mse"](many, 4)[0].tolist() == pytest.approx([4 / 3])


def test_percentile_leaves_one_in_a_thousand_out_by_hand():
    """Of 1,000 and of 2,500 weights 1 … n the highest and the two highest are left out; of 999 none."""
    for n, top in ((999, 999), (1000, 999), (2500, 2498)):
        scale, zero_point = percentile(torch.arange(1.0, n + 1)[None], 256)
        assert (float(scale) * 255, float(zero_point)) == pytest.approx((top, 0))
