"""Every rule, merge and step that combines: weights of any size are shares, and a broken member is named."""

import copy

import pytest
import torch
from torch import nn

import modelopt_core as mo

HUGE, TINY = (1e308, 1e308), (1e-50, 1e-50)
COMBINES = [
    *(mo.Ensemble(rule=r) for r in mo.RULES),
    *(mo.Cascade(confidence=c) for c in mo.CONFIDENCES),
    mo.Cascade(stages="exits"),
    mo.Pipeline(),
    *(mo.Fuse(of=of, strengths=(1.0,)) for of in ("outputs", "features")),
    *(mo.Fuse(merge=m) for m in mo.MERGES),
]


def pool(members: int) -> list[nn.Module]:
    """The shipped mlp, and others a little off it."""
    found = []
    for seed in range(members):
        model = copy.deepcopy(mo.baseline("digits", "mlp"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * seed * torch.randn(parameter.shape, generator=generator))
        found.append(model)
    return found


@pytest.mark.parametrize("weights", [HUGE, TINY], ids=["huge", "tiny"])
@pytest.mark.parametrize("rule", mo.RULES)
def test_weights_of_any_size_are_equal_shares_to_every_rule(rule, weights):
    w, models = mo.workload("digits"), pool(2)
    said = [mo.predictions(mo.Ensemble(rule=rule, weights=given).apply(models, w), w) for given in (weights, (1, 1))]
    assert torch.equal(said[0].outputs.logits, said[1].outputs.logits)


@pytest.mark.parametrize("weights", [HUGE, TINY], ids=["huge", "tiny"])
@pytest.mark.parametrize("merge", mo.MERGES)
def test_weights_of_any_size_are_equal_shares_to_every_merge(merge, weights):
    w, models = mo.workload("digits"), pool(2 + bool(mo.MERGES[merge]["needs_base"]))
    states = [mo.Fuse(merge=merge, weights=given).apply(models, w).state_dict() for given in (weights, (1, 1))]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("step", COMBINES, ids=lambda s: s.label)
def test_a_broken_member_is_named_by_every_step(step, value):
    w, models = mo.workload("digits"), pool(2)
    with torch.no_grad():
        models[1].fc1.weight[0, 0] = value
    with pytest.raises(
        mo.ModelOptError, match=rf"model 2 of {step.name} cannot be used: 1 of \d+ numbers of fc1.weight are not finite"
    ):
        step.apply(models, w)
