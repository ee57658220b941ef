"""Figures in the app's colours; drawn once in an app of one chart."""

from __future__ import annotations

import pytest

from pages.draw import charts


def test_a_line_with_its_band_and_a_mark() -> None:
    fig = charts.figure("ratio", "score", percent="xy")
    charts.line(fig, "l1", [0.0, 0.5], [1.0, 0.9], charts.colour("score"), low=[0.9, 0.8], high=[1.0, 1.0])
    charts.mark(fig, 0.3, "now")
    band, line = fig.data
    assert list(band.x) == [0.0, 0.5, 0.5, 0.0]
    assert list(band.y) == [1.0, 1.0, 0.8, 0.9]
    assert list(line.y) == [1.0, 0.9]
    assert line.line.color == "#2563eb"  # score is blue
    assert (fig.layout.xaxis.tickformat, fig.layout.yaxis.tickformat) == (".4~p", ".4~p")
    assert fig.layout.shapes[0].x0 == 0.3


def test_a_matrix_says_its_numbers_and_reads_from_the_top() -> None:
    fig = charts.figure("", "")
    charts.heat(fig, ["a", "b"], ["c"], [[1.0], [2.0]], charts.colour("latency"), form=".1f")
    assert fig.data[0].texttemplate == "%{z:.1f}"
    assert fig.layout.yaxis.autorange == "reversed"


def test_what_is_no_role_has_a_colour_of_its_own() -> None:
    own = {charts.categorical(n) for n in range(5)}
    assert len(own) == 5
    assert not own & {charts.colour(role) for role in ("score", "size", "latency")}
    assert charts.categorical(0) == charts.categorical(5)


def test_too_many_points_are_refused() -> None:
    fig = charts.figure("x", "y")
    charts.bars(fig, "n", range(charts.MOST_POINTS + 1), range(charts.MOST_POINTS + 1), charts.colour("ink"))
    with pytest.raises(ValueError, match="at most 5000 are drawn"):
        charts.draw(fig, "chart", "many bars")


def test_a_tint_is_the_roles_colour_and_an_opacity() -> None:
    assert charts.tint("score", 0.25) == "rgba(37, 99, 235, 0.250)"  # #2563eb
