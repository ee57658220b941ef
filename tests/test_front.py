"""The chart of sizes: places by hand, and every point in it."""

from xml.etree import ElementTree

import pytest

from benchmarks import front, lenet

SVG = "{http://www.w3.org/2000/svg}"


def test_places_by_hand():
    """Both axes are logarithmic: the ends, and the middle of a factor of 60 is at its root."""
    assert front.x(1_000) == front.LEFT
    assert front.x(60_000) == pytest.approx(front.WIDTH - front.RIGHT)
    assert front.x(1_000 * 60**0.5) == pytest.approx((front.LEFT + front.WIDTH - front.RIGHT) / 2)
    assert (front.y(0.6), front.y(7.0)) == pytest.approx((front.HEIGHT - front.BOTTOM, front.TOP))


def test_every_seed_mean_and_published_point_is_drawn():
    ours = [front.Point("a <small> one", [2_000, 4_000], [0.8, 1.0]), front.Point("b", [1_500], [2.0])]
    drawn = ElementTree.fromstring(front.svg(ours, [("Theirs", 3_000, 0.9)], 0.7))
    at = [(round(float(c.get("cx")), 1), round(float(c.get("cy")), 1)) for c in drawn.iter(f"{SVG}circle")]
    for size, error in ((2_000, 0.8), (4_000, 1.0), (3_000, 0.9), (1_500, 2.0), (3_000, 0.9)):
        assert (round(front.x(size), 1), round(front.y(error), 1)) in at
    told = [title.text for title in drawn.iter(f"{SVG}title")]
    assert "a <small> one: 3,000 bytes, 0.90 %, 2 seeds" in told
    assert "Theirs" in told


def test_what_was_measured_lies_inside():
    """Results and published points, within the axes."""
    sizes = [row["size_bytes"] for row in lenet.rows()] + [size for _, size, _ in lenet.LITERATURE]
    errors = [len(row["test_wrong"]) / 100 for row in lenet.rows()] + [error for *_, error in lenet.LITERATURE]
    assert front.BYTES[0] <= min(sizes) <= max(sizes) <= front.BYTES[1]
    assert front.ERRORS[0] <= min(errors) <= max(errors) <= front.ERRORS[1]
