"""Attention heads as channels for criteria that look at data: what they see, and that heads go by it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.steps.prune import CRITERIA
from modelopt_core.steps.prune.stats import EXAMPLES, gather
from modelopt_core.structure import channels
from modelopt_core.structure.attention import FewerHeads, open_heads
from modelopt_core.structure.layer_inputs import sample

WIDTH, HEADS = 8, 4


class Attentive(nn.Module):
    """An 8×8 image as 8 tokens of 8 numbers, one layer of self-attention, the mean token decides."""

    def __init__(self, batch_first: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first)
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(0, 1)  # (B, 8, 8)
        x = x if self.att.batch_first else x.transpose(0, 1)
        x = self.att(x, x, x, need_weights=False)[0]
        return self.fc(x.mean(1 if self.att.batch_first else 0))


def net(**how: bool) -> Attentive:
    torch.manual_seed(0)
    model = Attentive(**how).eval()
    with torch.no_grad():
        model.att.in_proj_weight.mul_(3)  # scores that are not all alike
    return model


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_an_opened_layer_answers_as_before(batch_first: bool, bias: bool, ratio: float) -> None:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = net(batch_first=batch_first, bias=bias)
    model = channels.cut(model, x[:1], ratio)
    assert isinstance(model.att, FewerHeads) == (ratio > 0)
    opened = copy.deepcopy(model)
    assert open_heads(opened) == ["att"]
    torch.testing.assert_close(opened(x), model(x))


def test_an_opened_layer_leaves_masked_calls_to_pytorch() -> None:
    layer, mask = net().att, torch.ones(8, 8, dtype=torch.bool).triu(1)
    opened, x = copy.deepcopy(nn.ModuleList([layer])), torch.rand(2, 8, WIDTH)
    open_heads(opened)
    for theirs, ours in zip(layer(x, x, x, attn_mask=mask), opened[0](x, x, x, attn_mask=mask), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gathered_gradient_is_pytorchs_own() -> None:
    w, model = mo.workload("digits"), net()
    gathered = gather(model, w, ("grad", "pre"))
    at = sample(len(w.train), EXAMPLES)
    w.loss(w.forward(model, w.train.inputs[at]), w.train.targets[at]).backward()
    for name, theirs in (("att", model.att.in_proj_weight.grad), ("att.out_proj", model.att.out_proj.weight.grad)):
        torch.testing.assert_close(gathered["grad"][name], theirs, rtol=1e-3, atol=1e-6)
    squares = w.train.inputs[at].square().sum((0, 1, 2)) / len(at)  # (8,): over examples and tokens
    torch.testing.assert_close(gathered["pre"]["att"], squares.expand(3 * WIDTH, WIDTH), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c != "bn_scale"])
def test_heads_go_by_every_criterion(criterion: str) -> None:
    w, model = mo.workload("digits"), net()
    thin = mo.Prune(ratio=0.5, criterion=criterion).apply(model, w)
    assert (thin.att.num_heads, model.att.num_heads) == (2, 4)
    assert torch.isfinite(thin(w.val.inputs[:2])).all()


def test_a_head_without_influence_goes_first() -> None:
    """Head 2's columns of the output are zero: no slope reaches it, so fisher takes it."""
    w, model = mo.workload("digits"), net()
    with torch.no_grad():
        model.att.out_proj.weight[:, 4:6] = 0
    thin = mo.Prune(ratio=0.25, criterion="fisher", recovery="none").apply(model, w)
    kept = torch.cat([model.att.in_proj_weight[i : i + WIDTH][[0, 1, 2, 3, 6, 7]] for i in (0, WIDTH, 2 * WIDTH)])
    assert torch.equal(thin.att.in_proj_weight, kept)
