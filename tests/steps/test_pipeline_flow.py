"""Which stage lost which example: by hand, against a loop over examples in NumPy, with oracles and with stages off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.models.composite import compose
from modelopt_core.steps.pipeline import SWITCHES, Plan, Stage, follow, worth
from modelopt_core.steps.pipeline.pipeline import Piped
from modelopt_core.workloads.damage import Damaged
from modelopt_core.workloads.subtask import sorting
from modelopt_core.workloads.workload import Split, Workload

MENDING = ("quality", "repair", "groups", "experts")
GROUPS = ((0, 2), (1,))


class Table(nn.Module):
    """Says what is written down for each input: inputs (b, 1), the row's number -> rows of `said`."""

    said: Tensor

    def __init__(self, said: list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("said", torch.tensor(said).clamp_min(1e-6).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.said[x[:, 0].long()]


@pytest.fixture(scope="module")
def digits() -> Damaged:
    return mo.damaged(mo.workload("digits"))


@pytest.fixture(scope="module")
def whole(digits: Damaged) -> Piped:
    pool = [mo.baseline("digits", m) for task in map(digits.subtask, MENDING) for m in task.models]
    return mo.Pipeline(stages=MENDING, threshold=0.8).apply(pool, digits)  # type: ignore[return-value]


def by_hand() -> tuple[Piped, Workload]:
    """Four examples with labels 0, 2, 1, 0 in groups {0, 2} and {1}.

    The first goes right all the way; the second is in the right group and misread; the third is sent to the wrong
    group; the fourth too, unsurely, and both experts together get it right.
    """
    route = [[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.45, 0.55]]
    first = [[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.99, 0.01]]
    n = 4
    x, labels = torch.arange(n, dtype=torch.float32)[:, None], torch.tensor([0, 2, 1, 0])
    split = Split(x, labels, tuple("abcd"))
    data = replace(mo.workload("digits"), labels=("0", "1", "2"), train=split, val=split, test=split, data_hash="hand",
                   subtasks=sorting("image", ("0", "1", "2"), GROUPS, ""))  # fmt: skip
    plan = Plan((Stage("groups", "route", (0,), GROUPS), Stage("experts", "answer", (1, 2), GROUPS)))
    made = compose("pipeline", [Table(route), Table(first), Table([[1.0]] * n)], plan=plan.text)
    made.get_buffer("thresholds").copy_(torch.tensor([0.7, 0.5]))
    assert isinstance(made, Piped)
    return made, data


def test_attribution_by_hand() -> None:
    """The fourth: 0.45·0.99 for label 0, 0.55 for label 1, so it is lost as well; surer experts would save it."""
    whole, data = by_hand()
    found = follow(whole, data, runtime="eager")
    assert found.names == ("groups", "experts")
    assert found.answers.tolist() == [0, 0, 0, 1]
    assert found.right.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert found.lost.tolist() == [-1, 1, 0, 0]
    assert found.recovered.tolist() == [-1, -1, -1, -1]
    assert found.counts() == [(2, 0), (1, 0)]
    assert (found.score.value, found.how) == (0.25, "measured")
    assert found.own(0).value == 0.5  # type: ignore[union-attr]
    assert found.own(1).value == 0.5  # type: ignore[union-attr]  # of the two that came to it unspoiled
    assert found.ran.all()


def test_oracles_and_stages_that_are_off_by_hand() -> None:
    whole, data = by_hand()
    sorted_right = follow(whole, data, switches={"groups": "oracle"}, runtime="eager")
    assert sorted_right.answers.tolist() == [0, 0, 1, 0]
    assert (sorted_right.counts(), sorted_right.how) == ([(0, 0), (1, 0)], "simulated")
    read_right = follow(whole, data, switches={"experts": "oracle"}, runtime="eager")
    assert read_right.lost.tolist() == [-1, -1, 0, 0]
    undecided = follow(whole, data, switches={"groups": "off"}, runtime="eager")
    assert undecided.answers.tolist() == [1, 1, 1, 1], "0.5 for label 1, less for each of two others"
    assert undecided.recovered.tolist() == [-1, -1, 0, -1]
    assert undecided.how == "measured"


def reference(whole: Piped, data: Damaged) -> tuple[list[int], list[int]]:
    """Example by example through single predictions: (lost, recovered), as indices of stages or −1."""
    judge, mend, route, *experts = whole.members
    groups = whole.plan.stages[-1].groups
    with torch.no_grad():

        def p(model: nn.Module, x: Tensor) -> Any:
            return model(x).softmax(1).double().numpy()[0]

        def answer(x: Tensor) -> tuple[int, int]:
            coarse, said = p(route, x), np.zeros(10)
            for g, labels in enumerate(groups):
                asked = coarse.max() < 0.8 or g == coarse.argmax()
                said[list(labels)] = coarse[g] * (p(experts[g], x) if asked else np.full(len(labels), 1 / len(labels)))
            return int(coarse.argmax()), int(said.argmax())

        lost, recovered = [], []
        for i, (x, truth) in enumerate(zip(data.val.inputs.split(1), data.val.targets.tolist(), strict=True)):
            flagged, harmed = p(judge, x)[1] >= 0.5, bool(data.harmed["val"][i])
            seen = mend(x).clamp(0, 1).reshape(x.shape) if flagged else x
            group, said = answer(seen)
            sound = answer(data.whole.val.inputs[i : i + 1])[1]
            spoiled = flagged and said != truth and sound == truth
            wrong = [flagged != harmed, spoiled, truth not in groups[group], said != truth]
            first = wrong.index(True) if any(wrong) else -1
            lost.append(first if said != truth else -1)
            recovered.append(first if said == truth else -1)
    return lost, recovered


def test_attribution_is_what_a_loop_over_examples_says(whole: Piped, digits: Damaged) -> None:
    found = follow(whole, digits)
    lost, recovered = reference(whole, digits)
    assert found.lost.tolist() == lost
    assert found.recovered.tolist() == recovered
    assert torch.equal(found.scores, mo.predictions(whole, digits).scores)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_wrong_answer_is_lost_once(whole: Piped, digits: Damaged, split: str) -> None:
    found = follow(whole, digits, split)
    assert torch.equal(found.lost >= 0, found.scores < 1)
    assert not ((found.lost >= 0) & (found.recovered >= 0)).any()
    assert sum(lost for lost, _ in found.counts()) == int((found.scores < 1).sum())
    for i, stage in enumerate(found.lost.tolist()):
        assert stage < 0 or (found.right[:stage, i].all() and not found.right[stage, i])


def test_all_oracles_know_everything(whole: Piped, digits: Damaged) -> None:
    found = follow(whole, digits, switches=dict.fromkeys(MENDING, "oracle"))
    assert found.score.value == 1.0
    assert found.how == "simulated"
    assert found.counts() == [(0, 0)] * 4


@pytest.mark.parametrize("stage", MENDING)
def test_one_switch(whole: Piped, digits: Damaged, stage: str) -> None:
    """An oracle takes the blame from its stage; a stage that is off says nothing and is not timed."""
    at = MENDING.index(stage)
    with_oracle = follow(whole, digits, switches={stage: "oracle"})
    assert with_oracle.counts()[at] == (0, 0)
    off = follow(whole, digits, switches={stage: "off"})
    if stage in ("quality", "repair"):
        assert bool(off.ran[1].any()) == (stage == "repair"), "nothing is flagged, nothing to mend"
    assert off.how == "measured"
    assert follow(whole, digits, switches={stage: "model"}).lost.tolist() == follow(whole, digits).lost.tolist()


def test_worth_is_both_switches(whole: Piped, digits: Damaged) -> None:
    found = worth(whole, digits)
    assert tuple(found) == MENDING
    for name, pair in found.items():
        assert pair == tuple(follow(whole, digits, switches={name: m}).score.value for m in ("oracle", "off"))


def test_sound_inputs_have_nothing_to_repair(whole: Piped) -> None:
    """On the workload as it is: whatever the judge flags is its own mistake."""
    plain = mo.workload("digits")
    found = follow(whole, plain)
    assert torch.equal(~found.right[0], found.ran[1])
    assert follow(whole, plain, switches={"repair": "oracle"}).score.value >= found.score.value


@pytest.mark.parametrize(
    ("switches", "text"),
    [
        ({"group": "oracle"}, r"unknown stage 'group' \(did you mean 'groups'\?\); choose from"),
        ({"groups": "on"}, f"unknown switch of groups 'on'.*; choose from {', '.join(sorted(SWITCHES))}"),
    ],
)
def test_switches_that_are_not_there(whole: Piped, digits: Damaged, switches: dict[str, str], text: str) -> None:
    with pytest.raises(ModelOptError, match=text):
        follow(whole, digits, switches=switches)


def test_only_a_pipeline_is_followed(digits: Damaged) -> None:
    with pytest.raises(ModelOptError, match="Cnn has no stages to follow; give what Pipeline"):
        follow(mo.baseline("digits", "cnn"), digits)
