"""Looking into a layer: what is shown as gone is exactly what a real prune takes."""

from __future__ import annotations

import pytest
import torch

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.steps.prune import reveal
from modelopt_core.steps.prune.what_went import between


def test_a_cut_by_hand() -> None:
    scores = torch.tensor([0.1, 0.4, 0.2, 0.3])
    assert between(scores, torch.tensor([True, False, True, False])) == pytest.approx(0.2)
    assert between(scores, torch.tensor([False, True, False, False])) is None  # the highest goes: no cut
    assert between(scores, torch.zeros(4, dtype=torch.bool)) is None
    assert between(scores, torch.ones(4, dtype=torch.bool)) is None
    assert between(torch.empty(0), torch.empty(0, dtype=torch.bool)) is None


@pytest.mark.parametrize("granularity", ["weight", "n:m", "block"])
@pytest.mark.parametrize("criterion", ["l1", "random", "hebbian"])
def test_gone_weights_are_the_zeros_of_a_real_prune(granularity: str, criterion: str) -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    step = mo.Prune(ratio=0.5, granularity=granularity, criterion=criterion, ratios={"fc2": 0.0})
    after = step.changed(recovery="none").apply(model, w)
    for layer in ("conv1", "conv2", "fc1", "fc2"):
        found = reveal(model, w, step, layer)
        assert torch.equal(found.weight, model.get_submodule(layer).weight)
        assert torch.equal(found.gone, after.get_submodule(layer).weight == 0)
    l1_cuts = criterion == "l1" and granularity == "weight"
    found = reveal(model, w, step, "fc1")
    assert (found.magnitude_cut is not None) == l1_cuts
    assert (found.cut is not None) == (granularity == "weight")


@pytest.mark.parametrize("criterion", ["l1", "random", "fpgm", "bn_scale"])
def test_gone_channels_are_those_of_a_real_prune(criterion: str) -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    step = mo.Prune(ratio=0.4, criterion=criterion, recovery="none")
    after = step.apply(model, w)
    for layer in ("conv1", "conv2"):
        found = reveal(model, w, step, layer)
        rows, columns = (~found.gone.flatten(1).all(dim=1), ~found.gone.transpose(0, 1).flatten(1).all(dim=1))
        assert torch.equal(found.weight[rows][:, columns], after.get_submodule(layer).weight)
        assert torch.equal(found.goes, ~rows)
        assert found.cut is not None
        assert found.scores[found.goes].max() == pytest.approx(found.cut)


def test_a_layer_that_only_loses_inputs_has_no_scores() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    found = reveal(model, w, mo.Prune(ratio=0.5), "fc2")
    assert (len(found.scores), found.cut) == (0, None)
    assert found.gone.sum() == 10 * 16  # half of the 32 inputs of 10 rows


def test_an_unknown_layer_is_one_line() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    with pytest.raises(ModelOptError, match="unknown layer 'conv1'; choose from fc1, fc2, fc3"):
        reveal(model, w, mo.Prune(), "conv1")


def test_an_embedding_loses_columns() -> None:
    w, model = mo.workload("docstrings"), mo.baseline("docstrings", "bag")
    step = mo.Prune(ratio=0.25, recovery="none")
    found = reveal(model, w, step, "embedding")
    kept = ~found.gone.all(dim=0)
    assert torch.equal(found.weight[:, kept], step.apply(model, w).get_submodule("embedding").weight)
