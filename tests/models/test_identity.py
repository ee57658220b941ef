"""Identity: cheap while nothing changed, honest when something did."""

import copy

import torch
from torch import nn

from modelopt_core.machine.digest import digest
from modelopt_core.models import identity


def net() -> nn.Module:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    return model


def test_a_stamp_holds_until_a_tensor_changes():
    model = identity.stamp(net(), "abc")
    assert identity.key(model) == "abc"
    with torch.no_grad():
        model.weight.add_(1)
    assert identity.key(model) != "abc"
    assert not identity.intact(model)


def test_replacing_a_parameter_or_a_module_is_a_change():
    model = identity.stamp(nn.Sequential(net()), "abc")
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())
    assert not identity.intact(model)
    other = identity.stamp(nn.Sequential(nn.ReLU()), "abc")
    other[0] = nn.Tanh()
    assert not identity.intact(other)


def test_equal_models_have_equal_keys_and_different_ones_have_not():
    assert identity.key(net()) == identity.key(net())
    other = net()
    with torch.no_grad():
        other.weight[0, 0] = 1.0000001
    assert identity.key(net()) != identity.key(other)
    assert identity.key(nn.Sequential(nn.ReLU())) != identity.key(nn.Sequential(nn.Tanh()))


def test_buffers_are_part_of_a_model():
    """Two networks of equal weights: one has seen other inputs, another holds a number that no file keeps."""
    norm, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    assert identity.key(norm) == identity.key(other)
    other.running_mean[0] = 0.5
    assert identity.key(norm) != identity.key(other)
    scaled, twice = net(), net()
    scaled.register_buffer("factor", torch.tensor(1.0), persistent=False)
    twice.register_buffer("factor", torch.tensor(2.0), persistent=False)
    assert identity.key(scaled) != identity.key(twice)


def test_a_stamp_holds_until_a_buffer_changes():
    model = identity.stamp(nn.BatchNorm1d(2), "abc")
    assert identity.intact(model)
    model.running_mean.add_(1)
    assert not identity.intact(model)
    model = identity.stamp(nn.BatchNorm1d(2), "abc")
    model.running_var = model.running_var.clone()
    assert not identity.intact(model)


def test_a_clone_answers_as_in_use():
    assert not identity.clone(nn.Sequential(nn.Dropout()).train()).training


def test_a_clone_is_the_same_model_and_a_plain_copy_is_hashed():
    model = identity.stamp(net(), "abc")
    assert identity.key(identity.clone(model)) == "abc"
    assert identity.key(copy.deepcopy(model)) == identity.key(net())


def test_digest_keeps_parts_apart():
    assert digest("ab", "c") != digest("a", "bc")
