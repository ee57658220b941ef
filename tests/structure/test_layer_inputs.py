"""What layers meet on training examples, by hand, and which examples those are."""

from dataclasses import replace

import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.structure.layer_inputs import calls, sample


def test_inputs_outputs_and_gradients_by_hand():
    """One linear layer, w = (1, 0; 0, 2): its output is what it put out, whatever was written in place later."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            self.layer.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))

        def forward(self, x):
            return self.layer(x).relu_()

    net, whole = Net(), mo.workload("digits")
    odd = {name: replace(whole.split(name), targets=whole.split(name).targets % 2) for name in ("train", "val", "test")}
    w = replace(whole, labels=("even", "odd"), **odd)
    x = torch.tensor([[1.0, -1.0]])
    ((name, call),) = calls(net, {"layer": net.layer}, w, x)
    assert (name, call.x.tolist(), call.y.tolist(), call.g.tolist()) == ("layer", [[1, -1]], [[1, -2]], [[0, 0]])
    ((_, call),) = calls(net, {"layer": net.layer}, w, x, torch.tensor([1]), slopes=True)
    shares = torch.tensor([[1.0, 0.0]]).softmax(1)[0]
    torch.testing.assert_close(call.g, torch.tensor([[shares[0], 0.0]]))  # relu stops the second
    assert not net.layer._forward_hooks


def test_examples_are_spread_or_drawn():
    even = sample(10_000, 1024)
    assert len(even) == 1024
    assert set(even.diff().tolist()) == {9, 10}
    one, again, two = sample(10_000, 1024, 1), sample(10_000, 1024, 1), sample(10_000, 1024, 2)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert len(one) == len(one.unique()) == len(even)
    assert sample(1, 1024, 3).tolist() == sample(1, 1024).tolist() == [0]
    assert sample(5, 5).tolist() == [0, 1, 2, 3, 4]
