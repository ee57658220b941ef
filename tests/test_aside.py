"""What is noted on a model travels with its copies and in a file of its own."""

import copy

import pytest
import torch
from torch import nn

from modelopt_core import aside
from modelopt_core.errors import ModelOptError


def test_notes_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert aside.noted(model, "size") is None
    assert aside.pack(model) == b""
    aside.note(model, "size", {"cm": torch.tensor([1.5, float("inf")])})
    aside.note(model[1][0], "when", {"year": torch.tensor(2026), "day": torch.tensor(3)})
    aside.note(model[1][0], "when", {"year": torch.tensor(2027)})  # takes the place of the earlier one
    for other in (copy.deepcopy(model), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))):
        aside.unpack(other, aside.pack(model))
        assert aside.noted(other, "size")["cm"].tolist() == [1.5, float("inf")]
        assert {name: int(t) for name, t in aside.noted(other[1][0], "when").items()} == {"year": 2027}
        assert aside.noted(other, "when") is None


@pytest.mark.parametrize("data", [b"", b"x" * 40, None], ids=["empty", "damaged", "another's"])
def test_notes_of_nothing_are_refused(data):
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    aside.note(model[0][0], "size", {"cm": torch.ones(1)})
    with pytest.raises(ModelOptError, match="what was noted beside the model is damaged .*; make the model again"):
        aside.unpack(nn.Linear(1, 1), aside.pack(model) if data is None else data)
