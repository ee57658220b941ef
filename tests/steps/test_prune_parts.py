"""What the page Prune is made of, without a page: ratios of layers, words about the contest, shares removed."""

from __future__ import annotations

import base64
import io
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.prune import Duel, Unit, reveal
from pages.pruning import article, criteria, picture, ratios, recovery, removed, weights
from pages.pruning.ratios import Own
from pages.state import address, bench, controls

CONV, PAIR, LAST = Unit("conv1", ("conv1",), 16), Unit("a", ("a", "b"), 8), Unit("fc", ("fc",), 10, "it is the output")


def test_a_ratio_of_its_own_by_hand() -> None:
    own = Own((("b", 0.2), ("conv1", 0.5)), ("conv1",))
    assert (own.ratio(CONV), own.ratio(PAIR), own.is_frozen(CONV), own.is_frozen(PAIR)) == (0.5, 0.2, True, False)
    assert own.with_ratio(PAIR, 0.7) == Own((("a", 0.7), ("conv1", 0.5)), ("conv1",))  # the group has one ratio
    assert own.with_ratio(CONV, None).with_frozen(CONV, False) == Own((("b", 0.2),))
    assert ratios.label(PAIR) == "a + b"


def test_edits_of_the_table() -> None:
    found = [CONV, PAIR]
    edits = {"0": {"ratio": 0.3}, 1: {"frozen": True}, "7": {"ratio": 0.9}, "x": {}}
    assert ratios.edited(Own(), found, edits) == Own((("conv1", 0.3),), ("a",))
    assert ratios.edited(Own((("conv1", 0.3),)), found, {0: {"ratio": None}}) == Own()
    with pytest.raises(ModelOptError, match="ratio='much' is not a number; write one from 0 to 0.99"):
        ratios.edited(Own(), found, {0: {"ratio": "much"}})
    shown = ratios.table(found, Own((("conv1", 0.3),), ("a",)))
    assert shown["ratio"].tolist()[0] == 0.3
    assert shown["ratio"].isna().tolist() == [False, True]
    assert shown["frozen"].tolist() == [False, True]


def test_what_does_not_fit_the_model_is_left_out_and_told() -> None:
    own = Own((("a", 0.2), ("b", 0.4), ("conv1", 0.5), ("fc", 0.5), ("nope", 0.1)), ("<b>", "fc"))
    fitting, told = ratios.fit(own, [CONV, PAIR, LAST])
    assert fitting == Own((("conv1", 0.5),), ("fc",))
    assert told == [
        "Unknown layer 'nope'; choose from conv1, a + b, fc. It is left out.",
        "Unknown layer '<b>'; choose from conv1, a + b, fc. It is left out.",
        "a + b are coupled and need one ratio, not 2. They follow the Dial.",
        "Channels of fc can't be cut: it is the output. Its ratio is left out.",
    ]
    assert ratios.fit(fitting, [CONV, PAIR, LAST]) == (fitting, [])
    assert ratios.fit(own, [])[0] == Own()


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("ratios", "conv1:0.5,fc1:0.3", (("conv1", 0.5), ("fc1", 0.3))),
        ("ratios", "", ()),
        ("frozen", "b,a", ("a", "b")),
    ],
)
def test_tuples_go_through_the_url(field: str, text: str, value: object) -> None:
    assert controls.value_from(mo.Prune, field, text) == value
    assert controls.value_from(mo.Prune, field, address.said(value)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [("conv1", "ratios='conv1' is no pair; write ratios as conv1:0.5,fc1:0.3"), (":0.5", "is no pair"),
     ("a:2", "ratio 2 of a is not allowed"), ("a:x", "must be a valid number"), ("a:1e400", "not allowed"),
     ("a:0.1,a:0.2", "name a layer twice")],
)  # fmt: skip
def test_a_wrong_pair_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ModelOptError, match=said) as caught:
        controls.value_from(mo.Prune, "ratios", text)
    assert "\n" not in str(caught.value)


def test_spans_join_what_follows_on_the_grid() -> None:
    assert criteria.spans([0.3, 0.1, 0.4, 0.5]) == "0.1, 0.3 – 0.5"
    assert criteria.spans([0.9]) == "0.9"


def test_the_verdict_says_what_the_duels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def duel(rival: str, ratio: float, verdict: str) -> Duel:
        return Duel(rival, ratio, mo.Estimate(0.0, -0.1, 0.1, 9), 0.5, verdict)

    found = [duel("l1", 0.3, "worse"), duel("l1", 0.4, "worse"), duel("l2", 0.3, "worse"), duel("l2", 0.4, "worse"),
             duel("random", 0.1, "better"), duel("random", 0.9, "")]  # fmt: skip
    monkeypatch.setattr(criteria, "duels", lambda *_: found)
    trial: Any = SimpleNamespace(bench=SimpleNamespace(workload=SimpleNamespace(val=range(1000), chance=0.1)))
    said = criteria.verdict(trial, [])
    assert "the same 1,000 examples" in said
    assert "<td>wins against</td><td>random at p = 0.1</td>" in said
    assert "<td>loses to</td><td>l1, l2 at p = 0.3 – 0.4</td>" in said
    assert "in 1 of 6 comparisons" in said
    monkeypatch.setattr(criteria, "duels", lambda *_: [duel("l1", 0.3, "")])
    assert criteria.verdict(trial, []).count("<td>none</td>") == 2


def test_what_is_not_fine_tuned_says_so() -> None:
    w = mo.workload("digits")
    here = bench.Bench(w, "mlp", mo.baseline("digits", "mlp"), "onnx", "cpu", "tune")
    assert recovery.untuned(mo.Prune(), here) == ""
    assert "Nothing here is fine-tuned" in recovery.untuned(mo.Prune(recovery="fine-tuned"), here)


def test_a_round_is_shown_whole() -> None:
    def cell(name: str, ratio: float, seed: int = 0) -> Any:
        return SimpleNamespace(criterion=name, ratio=ratio, seed=seed)

    first = [cell("l1", 0.5), cell("l2", 0.5)]
    assert criteria.whole_rounds(first, 2) == first
    assert criteria.whole_rounds([*first, cell("l1", 0.8)], 2) == first
    assert criteria.whole_rounds([], 2) == []


def test_shares_removed_by_hand() -> None:
    def measured(nonzero: int, macs: int, size_bytes: int) -> Any:
        return SimpleNamespace(nonzero=nonzero, macs=macs, size_bytes=size_bytes)

    found = removed.gone(measured(100, 1000, 400), measured(25, 1000, 440))
    assert (found.weights, found.macs, found.size) == pytest.approx((0.75, 0.0, -0.1))
    assert removed.theory(0.3, "channel") == pytest.approx(0.51)
    assert removed.theory(0.3, "weight") == 0.3


def test_a_layer_is_laid_out_by_hand() -> None:
    matrix = np.arange(6.0).reshape(3, 2)
    assert picture.laid_out(matrix).shape == (2, 3)  # the longer side across
    kernels = np.arange(1.0, 9.0).reshape(2, 1, 2, 2)  # two filters of one input, side by side
    assert picture.laid_out(kernels).tolist() == [[1, 2, 0, 5, 6], [3, 4, 0, 7, 8]]
    several = np.ones((2, 3, 1, 1))
    assert picture.laid_out(several).tolist() == [[1, 0, 1, 0, 1], [0] * 5, [1, 0, 1, 0, 1]]
    assert picture.laid_out(np.ones((2, 3, 4))).shape == (3, 14)  # one dimension: a tile is a row


@pytest.mark.parametrize(
    "shape", [(1, 1), (10, 16), (500, 800), (1200, 1200), (50, 20, 5, 5), (64, 32, 3), (16, 1, 3, 3)]
)
def test_a_picture_is_small_and_paints_what_goes(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal(shape).astype(np.float32)
    for share in (0.0, 1.0):
        gone = np.full(shape, bool(share))
        uri = picture.png(weight, gone, "#102030", "#ff0000")
        assert len(uri) < 60_000
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA")
        seen = {pixel[:3] for _, pixel in image.getcolors(2**16) if pixel[3]}
        assert seen <= ({(255, 0, 0)} if share else {(0x10, 0x20, 0x30)})
        assert seen


def test_a_histogram_by_hand() -> None:
    values = np.array([0.0, 0.1, 0.9, 1.0], dtype=np.float32)
    x, stays, goes = weights.histogram(values, values < 0.5)
    assert (len(x), sum(stays), sum(goes)) == (weights.BINS, 2, 2)
    assert (goes[0], stays[-1]) == (1, 1)


def test_channels_stand_by_score_and_the_cut_between() -> None:
    scores, goes = np.array([3.0, 1.0, 2.0], dtype=np.float32), np.array([False, True, False])
    found = weights.ranked(scores, goes, 1.0)
    assert (found.x, found.goes, found.stays, found.cuts) == ([1, 2, 3], [1, 0, 0], [0, 2, 3], (1.5,))
    assert found.said == "1 of 3 channels go: those with the lowest scores."
    assert weights.ranked(scores, np.zeros(3, dtype=bool), None).said == "No channel of this layer goes."
    many = weights.ranked(np.arange(1201, dtype=np.float32), np.arange(1201) < 600, 599.0)
    assert len(many.x) <= weights.MOST_BARS


@pytest.mark.parametrize(
    ("step", "title", "cuts"),
    [
        (mo.Prune(granularity="weight"), "weight", 2),
        (mo.Prune(granularity="weight", criterion="hebbian"), "score by hebbian", 1),
        (mo.Prune(granularity="n:m"), "weight", 0),
        (mo.Prune(granularity="channel"), "channel, by score", 1),
        (mo.Prune(granularity="weight", frozen=("conv2",)), "weight", 0),
    ],
)
def test_the_cut_is_drawn_where_there_is_one(step: mo.Prune, title: str, cuts: int) -> None:
    found = weights.bars(step, reveal(mo.baseline("digits", "cnn"), mo.workload("digits"), step, "conv2"))
    assert (found.title, len(found.cuts)) == (title, cuts)
    assert found.said


@pytest.mark.mnist
def test_the_articles_example_runs_as_shown() -> None:
    printed: list[Any] = []
    code = compile(article.CODE, "page", "exec")
    types.FunctionType(code, {"print": printed.append})()
    assert printed == [True]


@pytest.mark.mnist
def test_one_click_is_half_of_conv1_and_nothing_else() -> None:
    """By PyTorch's own call, on our weights."""
    w, net = mo.workload("mnist"), mo.baseline("mnist", "article")
    after = mo.Prune().changed(**article.FIELDS).apply(net, w)
    torch.nn.utils.prune.l1_unstructured(net.conv1, "weight", amount=0.5)
    assert torch.equal(after.conv1.weight, net.conv1.weight)
    assert int((after.conv1.weight == 0).sum()) == 250
    assert torch.equal(after.conv2.weight, net.conv2.weight)
    assert torch.equal(after.fc.weight, net.fc.weight)
