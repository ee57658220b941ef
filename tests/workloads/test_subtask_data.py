"""Subtasks as workloads of their own: groups, experts, repair; and what may be declared. Locating: test_altered."""

from __future__ import annotations

import pytest
import torch

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.workloads.augment import speckle
from modelopt_core.workloads.subtask import KINDS, Subtask, sorting
from modelopt_core.workloads.workload import SPLITS, Outputs, Workload


@pytest.fixture(scope="module")
def w() -> Workload:
    return mo.workload("digits")


def test_groups_and_experts_by_hand(w: Workload) -> None:
    """Digits 0 4 6 8 are the first group; the first expert sees those alone and calls them 0 to 3."""
    groups, expert = mo.part(w, "groups"), mo.part(w, "experts/1")
    assert groups.labels == ("0 4 6 8", "1 2 7", "3 5 9")
    assert expert.labels == ("0", "4", "6", "8")
    for split in SPLITS:
        truth = w.split(split).targets
        assert groups.split(split).targets.tolist() == [
            {0: 0, 4: 0, 6: 0, 8: 0, 1: 1, 2: 1, 7: 1}.get(int(t), 2) for t in truth
        ]
        mine = [(int(t), name) for t, name in zip(truth, w.split(split).ids, strict=True) if int(t) in (0, 4, 6, 8)]
        assert expert.split(split).targets.tolist() == [(0, 4, 6, 8).index(t) for t, _ in mine]
        assert expert.split(split).ids == tuple(name for _, name in mine)


@pytest.mark.parametrize("name", ["digits", "docstrings", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_experts_share_out_the_examples(name: str) -> None:
    whole = mo.workload(name)
    parts = [mo.part(whole, f"experts/{i + 1}") for i in range(len(whole.subtask("experts").groups))]
    assert sum(len(p.val) for p in parts) == len(whole.val)
    assert sorted(label for p in parts for label in p.labels) == sorted(whole.labels)
    assert len({p.data_hash for p in (whole, *parts)}) == len(parts) + 1
    assert all(p.val.targets.unique().tolist() == list(range(len(p.labels))) for p in parts)


def test_what_the_judge_and_the_repair_learn(w: Workload) -> None:
    judge, repair, bad = mo.part(w, "quality"), mo.part(w, "repair"), mo.damaged(w)
    assert torch.equal(judge.val.targets, bad.harmed["val"].long())
    assert torch.equal(repair.val.targets, w.val.inputs)
    assert torch.equal(repair.train.inputs, repair.train.targets), "a recipe damages them anew in every epoch"
    as_it_came = Outputs(repair.val.inputs.flatten(1))
    assert repair.chance == pytest.approx(float(repair.example_scores(as_it_came, repair.val.targets).mean()), abs=1e-5)
    mended = mo.predictions(mo.baseline("digits", "repair"), repair)
    assert mended.scores.mean() > repair.chance + 0.02
    assert mo.predictions(mo.baseline("digits", "quality"), judge).scores.mean() > judge.chance + 0.3


def test_repair_by_hand(w: Workload) -> None:
    """Two pixels, one right and one half off: likeness 0.75, squared error 0.125."""
    repair, said = mo.part(w, "repair"), Outputs(torch.tensor([[1.0, 0.5]]))
    target = torch.tensor([[[[1.0, 0.0]]]])
    assert repair.example_scores(said, target).tolist() == [0.75]
    assert float(repair.loss(said, target)) == 0.125
    assert repair.example_scores(Outputs(torch.tensor([[7.0, -3.0]])), target).tolist() == [1.0], (
        "pixels end at 0 and 1"
    )
    assert repair.confidence(said).tolist() == [1.0]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_speckle(share: float) -> None:
    images, draw = torch.full((20, 1, 9, 7), 0.5), torch.Generator().manual_seed(0)
    found = speckle(images, draw, share)
    assert found.shape == images.shape
    assert set(found.unique().tolist()) <= {0.0, 0.5, 1.0}
    assert float((found != 0.5).float().mean()) == pytest.approx(share, abs=0.03)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.03), "as many white as black"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("group", r"unknown subtask of digits 'group' \(did you mean 'groups'\?\); choose from digit, experts, groups"),
        ("experts", "digits has no part 'experts'; choose from experts/1, experts/2, experts/3"),
        ("experts/4", "digits has no part 'experts/4'; choose from experts/1, experts/2, experts/3"),
    ],
)
def test_parts_that_are_not_there(w: Workload, name: str, text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        mo.part(w, name)


def test_a_reader_learns_the_workload_itself(w: Workload) -> None:
    assert mo.part(w, "digit") is w


def test_a_stages_model_is_measured_on_its_own_part(w: Workload) -> None:
    """Of the workload it has nothing right, whatever its first class is; training it there is refused."""
    model = mo.baseline("digits", "groups")
    assert mo.measure(model, w).score.value == 0.0
    assert mo.measure(model, mo.part(w, "groups")).score.value > 0.9
    text = (
        r"the model answers with 3 classes, digits has 10; train a stage's model on its own part, such as part\(workl"
    )
    with pytest.raises(ModelOptError, match=text):
        mo.Finetune(epochs=1).apply(model, w)
    tuned = mo.Finetune(epochs=1, lr=1e-4).apply(model, mo.part(w, "groups"))
    assert mo.measure(tuned, mo.part(w, "groups")).score.value > 0.9


def test_what_a_subtask_may_be() -> None:
    route, experts = sorting("image", ("a", "b", "c"), ((0, 2), (1,)), "")
    assert (route.labels, route.gives, experts.takes) == (("a c", "b"), "sorted image", "sorted image")
    assert (route.experts, experts.experts) == (1, 2)
    assert experts.models == ("expert-1", "expert-2")
    assert set(KINDS) == {"judge", "map", "route", "answer"}
    with pytest.raises(ModelOptError, match="unknown kind of subtask 'rout'"):
        Subtask("x", "rout", "image", "label", "")
    with pytest.raises(ModelOptError, match="subtask 'x' sends inputs to groups and names none; give it groups"):
        Subtask("x", "route", "image", "label", "")
    with pytest.raises(ModelOptError, match=r"subtask 'x' must have every label in one group; its groups are \(\(0, 1"):
        Subtask("x", "answer", "image", "label", "", groups=((0, 1), (1,)))
