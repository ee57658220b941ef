"""What reads bytes that nobody vouches for, by hand; and bytes written before, which must stay readable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.files import adaptive, header, mopt, symbols, tensors
from modelopt_core.files.stream import Damaged, Reader, varint
from modelopt_core.models.spec import Spec
from modelopt_core.models.weight_grid import Codebook, attach

FIRST = "0102057b3cd94d4f"
SECOND = "01041077ac2f19cb23f74f9d5898e6fb4e2e2b"


@pytest.mark.parametrize(
    ("number", "data"), [(0, "00"), (127, "7f"), (128, "8001"), (255, "ff01"), (300, "ac02"), (16384, "808001")]
)
def test_numbers_by_hand(number: int, data: str) -> None:
    assert varint(number).hex() == data
    assert Reader(bytes.fromhex(data)).varint() == number


def test_nothing_is_read_past_the_end() -> None:
    reader = Reader(b"abc")
    assert reader.take(2) == b"ab"
    with pytest.raises(Damaged, match="2 bytes are announced and 1 are left"):
        reader.take(2)
    assert reader.take(1) == b"c"
    with pytest.raises(Damaged, match="1 bytes are announced and 0 are left"):
        reader.varint()


def test_symbols_beyond_the_alphabet_are_damage() -> None:
    """Written flat, the base is told; in a table, the symbols are; in planes, their sum shows it."""
    flat = np.arange(200, dtype=np.int32)
    fine = np.random.default_rng(0).integers(0, 2**16, 200).astype(np.int32)
    for written, alphabet in ((flat, 200), (np.array([3, 9, 9], np.int32), 10), (fine, 2**16)):
        data = symbols.encode(written).data
        assert np.array_equal(symbols.decode(Reader(data), len(written), alphabet), written)
        with pytest.raises(Damaged, match=r"symbol|table"):
            symbols.decode(Reader(data), len(written), int(written.max()))


@pytest.mark.parametrize("one", [torch.tensor(3.0), torch.tensor(-0.0), torch.tensor(7)])
def test_equal_elements_are_stored_once(one: torch.Tensor) -> None:
    coded = tensors.encode(one.repeat(100))
    assert (coded.mode, len(coded.data)) == ("constant", 1 + one.itemsize)
    assert tensors.encode(one.repeat(1)).mode == "raw"


def test_a_file_of_yesterday_is_read_today() -> None:
    """The adaptive coder's forecasts are part of the format: these bytes were written by the first of its kind."""
    first = np.array([[0, 1, 1, 1, 2, 1, 0, 1], [1, 1, 2, 1, 1, 1, 1, 0], [1, 0, 1, 1, 2, 2, 1, 1]])
    second = np.arange(60).reshape(4, 15) ** 2 % 7
    for q, written in ((first, FIRST), (second, SECOND)):
        read = adaptive.decode(Reader(bytes.fromhex(written)), *q.shape, 4, int(q.max()) + 1)
        assert read.tolist() == q.tolist()


def test_values_of_a_codebook_are_points_and_not_weights() -> None:
    """Two values of four bytes each are its scales; only the bias is float weights."""
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    book = Codebook(torch.tensor([-0.25, 0.25]))
    with torch.no_grad():
        for layer in (model.fc1, model.fc2, model.fc3):
            layer.weight.copy_(book.values(book.nearest(layer.weight)))
            attach(layer, book)
    parts = mopt.sizes(model).parts
    assert parts["scales"] == 3 * 2 * 4
    assert parts["float weights"] == 4 * sum(layer.bias.numel() for layer in (model.fc1, model.fc2, model.fc3))
    assert sum(parts.values()) == len(mopt.encode(model)) == mo.measure(model, w).size_bytes


def test_the_same_bits_are_more_than_equal_numbers() -> None:
    """−0 is not 0, and what is no number is itself."""
    zero, minus, none = (nn.ParameterDict({"a": torch.tensor([x])}).state_dict() for x in (0.0, -0.0, float("nan")))
    assert not mopt._same_bits(zero, minus)
    assert mopt._same_bits(none, none)
    assert mopt._same_bits(zero, zero)
    assert not mopt._same_bits(zero, {})


@pytest.mark.parametrize(
    "spec",
    [
        Spec("mlp", (("sizes", (8, 2)),), (8,)),
        Spec("bag", (("classes", 7), ("hidden", 64)), (48,), "int64"),
        Spec("cnn", (("width1", 4),), (1, 8, 8), kept=(("conv1", 3), ("fc1", 9))),
    ],
    ids=lambda spec: spec.architecture,
)
def test_a_header_says_what_it_was_told(spec: Spec) -> None:
    """Also the type of the inputs, of which floats are the usual ones."""
    inputs = {"fc1": [0.5, 3, 16]}
    assert header.decode(header.encode(spec, {"why": "é"}, inputs), 2) == (spec, {"why": "é"}, inputs)
