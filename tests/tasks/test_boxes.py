"""Boxes: a 3×3 picture cut by hand, PyTorch's own sampling, overlaps counted on a grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modelopt_core.tasks.boxes import crop, edges, overlap, place

NINE = torch.arange(9, dtype=torch.float32).reshape(1, 1, 3, 3)


def drawn(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) * 0.8 + 0.1


def test_a_crop_by_hand() -> None:
    """The whole; one pixel to the right; the middle pixel's third, which its neighbours' middles do not reach."""
    torch.testing.assert_close(crop(NINE, torch.tensor([[0.5, 0.5, 1.0]])), NINE)
    right = crop(NINE, torch.tensor([[0.5, 0.5 + 1 / 3, 1.0]]))
    torch.testing.assert_close(right[0, 0], torch.tensor([[1.0, 2, 0], [4, 5, 0], [7, 8, 0]]))
    third = crop(NINE, torch.tensor([[0.5, 0.5, 1 / 3]]))  # middles a third of a pixel apart: ±1 across, ±3 down
    expected = 4 + torch.tensor([[-1.0], [0.0], [1.0]]) + torch.tensor([-1 / 3, 0.0, 1 / 3])
    torch.testing.assert_close(third[0, 0], expected)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 1, 7, 7), (3, 2, 6, 9)])
def test_a_crop_is_what_grid_sample_says(shape: tuple[int, ...]) -> None:
    images, boxes = torch.rand(shape, generator=torch.Generator().manual_seed(1)), drawn(shape[0])
    (y, x), size = (2 * boxes[:, :2] - 1).unbind(1), boxes[:, 2]
    zero = torch.zeros_like(size)
    theta = torch.stack([torch.stack([size, zero, x], 1), torch.stack([zero, size, y], 1)], 1)
    grid = F.affine_grid(theta, list(shape), align_corners=False)
    torch.testing.assert_close(crop(images, boxes), F.grid_sample(images, grid, align_corners=False))


def test_a_placed_image_is_what_interpolate_says() -> None:
    """At half the side in a corner: the same averages, away from the edge."""
    image = F.pad(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(2)), (4, 4, 4, 4))
    found = place(image, torch.tensor([[0.25, 0.75, 0.5]]))
    expected = F.interpolate(image, size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(found[:, :, :8, 8:], expected)
    assert float(found[:, :, 8:].abs().max()) == 0


def test_crop_undoes_place_where_nothing_was_lost() -> None:
    flat = F.pad(torch.ones(4, 1, 12, 12), (2, 2, 2, 2))
    boxes = torch.tensor([[0.3, 0.6, 0.5], [0.5, 0.5, 1.0], [0.65, 0.65, 0.7], [0.25, 0.75, 0.4]])
    back = crop(place(flat, boxes), boxes)
    assert float((back - flat)[:, :, 7:9, 7:9].abs().max()) < 1e-5, "the middle of a patch is as light as before"


def test_no_image_and_another_device() -> None:
    assert (
        crop(torch.zeros(0, 1, 4, 4), torch.zeros(0, 3)).shape
        == place(torch.zeros(0, 1, 4, 4), torch.zeros(0, 3)).shape
    )
    made = crop(torch.empty(2, 1, 4, 4, device="meta"), torch.empty(2, 3, device="meta"))
    assert (made.shape, made.device.type) == ((2, 1, 4, 4), "meta")


def test_overlap_by_hand_and_on_a_grid() -> None:
    """Quarters that share half; the same box; none in common; no size. Then counted on 400 × 400 points."""
    found = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.5], [0.2, 0.2, 0.2], [0.5, 0.5, 0.0], [0.5, 0.5, -1.0]])
    truth = torch.tensor([[0.25, 0.5, 0.5], [0.5, 0.5, 0.5], [0.8, 0.8, 0.2], [0.5, 0.5, 0.0], [0.5, 0.5, 0.5]])
    torch.testing.assert_close(overlap(found, truth), torch.tensor([1 / 3, 1.0, 0.0, 0.0, 0.0]))
    points = torch.cartesian_prod(*[(torch.arange(400) + 0.5) / 200 - 0.5] * 2)

    def inside(box: torch.Tensor) -> torch.Tensor:
        low, high = edges(box[None])
        return ((points >= low) & (points < high)).all(dim=1)

    for a, b in zip(drawn(8), drawn(8, seed=1), strict=True):
        counted = (inside(a) & inside(b)).sum() / (inside(a) | inside(b)).sum()
        assert float(overlap(a[None], b[None])) == pytest.approx(float(counted), abs=0.02)


def test_overlap_and_crop_have_gradients() -> None:
    boxes = drawn(3).requires_grad_(True)
    (overlap(boxes, drawn(3, seed=1)).sum() + crop(torch.rand(3, 1, 5, 5), boxes).sum()).backward()
    assert boxes.grad is not None
    assert torch.isfinite(boxes.grad).all()
    assert (boxes.grad != 0).any()
