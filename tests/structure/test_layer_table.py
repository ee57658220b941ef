"""Layers and multiply–accumulates, against PyTorch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import modelopt_core as mo
from modelopt_core.models.spec import Spec
from modelopt_core.structure.build import build
from modelopt_core.structure.layer_table import layers, macs

SPECS = [
    Spec("mlp", (("sizes", (784, 300, 100, 10)),), (1, 28, 28)),
    Spec("cnn", (), (1, 8, 8)),
    Spec("lenet5", (), (1, 28, 28)),
    Spec("article", (), (1, 28, 28)),
    Spec("bag", (), (32,), "int64"),
    Spec("textcnn", (), (32,), "int64"),
]


def test_lenet_300_100_by_hand():
    """784·300 + 300·100 + 100·10 = 266,200."""
    assert macs(build(SPECS[0]), SPECS[0].example) == 266_200


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.architecture)
def test_macs_equal_torchs_flop_counter(spec):
    model = build(spec)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(spec.example)
    assert macs(model, spec.example) == counter.get_total_flops() // 2


class Attend(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(("batch_first", "shape"), [(True, (1, 5, 8)), (False, (5, 1, 8)), (True, (5, 8))])
def test_attention_by_hand(batch_first, shape):
    """Four projections of 5 tokens, 4 · 5 · 8 · 8 = 1280; scores and their sums, 2 · 5 · 5 · 8 = 400."""
    assert macs(Attend(batch_first).eval(), torch.zeros(shape)) == 1680


def test_cut_models_are_counted_as_they_are():
    w = mo.workload("digits")
    small = mo.Prune(ratio=0.7).apply(mo.baseline("digits", "cnn"), w)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(w.example)
    assert mo.measure(small, w).macs == counter.get_total_flops() // 2


def test_rows_add_up():
    model = build(SPECS[1])
    rows = layers(model, SPECS[1].example)
    assert sum(r.parameters for r in rows) == sum(p.numel() for p in model.parameters())
    assert [r.name for r in rows] == ["conv1", "bn1", "conv2", "bn2", "fc1", "fc2"]
    assert all(r.levels is None for r in rows)


def test_control_flow_is_counted_by_running_it():
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) if x.sum() >= 0 else x

    assert macs(Gate(), torch.zeros(1, 4)) == 12
