"""What is noted on a model travels with its copies and in a file of its own."""

import copy

import pytest
import torch
from torch import nn

from modelopt_core.errors import ModelOptError
from modelopt_core.models import notes


def test_notes_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert notes.noted(model, "size") is None
    assert notes.pack(model) == b""
    notes.note(model, "size", {"cm": torch.tensor([1.5, float("inf")])})
    notes.note(model[1][0], "when", {"year": torch.tensor(2026), "day": torch.tensor(3)})
    notes.note(model[1][0], "when", {"year": torch.tensor(2027)})  # takes the place of the earlier one
    for other in (copy.deepcopy(model), nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))):
        notes.unpack(other, notes.pack(model))
        assert notes.noted(other, "size")["cm"].tolist() == [1.5, float("inf")]
        assert {name: int(t) for name, t in notes.noted(other[1][0], "when").items()} == {"year": 2027}
        assert notes.noted(other, "when") is None


@pytest.mark.parametrize("data", [b"", b"x" * 40, None], ids=["empty", "damaged", "another's"])
def test_notes_of_nothing_are_refused(data):
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    notes.note(model[0][0], "size", {"cm": torch.ones(1)})
    with pytest.raises(ModelOptError, match="what was noted beside the model is damaged .*; make the model again"):
        notes.unpack(nn.Linear(1, 1), notes.pack(model) if data is None else data)
