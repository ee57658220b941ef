"""Pruning in rounds: schedules by hand, one shot as the reference, and a training that is killed in between."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import modelopt_core as mo
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.events import Keeper, Progress
from modelopt_core.models.spec import Spec
from modelopt_core.steps.prune import CRITERIA, Left, Plan, Scorer, prune_channels, prune_weights
from modelopt_core.steps.prune.rounds import shares
from modelopt_core.structure import channels
from modelopt_core.structure.build import build

GRANULARITIES = ("weight", "n:m", "block", "channel")


def scorer(model: nn.Module, criterion: str = "l1") -> Scorer:
    return Scorer(model, CRITERIA[criterion], torch.Generator().manual_seed(0))


def zeros(model: nn.Module) -> list[float]:
    return [float((m.weight == 0).float().mean()) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def test_shares_by_hand() -> None:
    """Of 4 rounds: quarters; cubic 1 − (3/4)³ = 37/64, then 7/8, 63/64, 1."""
    assert shares(4, "linear") == [0.25, 0.5, 0.75, 1.0]
    assert shares(4, "cubic") == [37 / 64, 7 / 8, 63 / 64, 1.0]
    assert shares(1, "linear") == shares(1, "cubic") == [1.0]


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize("rounds", [2, 3, 7, 100])
def test_shares_rise_to_one(rounds: int, schedule: str) -> None:
    found = shares(rounds, schedule)
    assert len(found) == rounds
    assert all(0 < a < b for a, b in pairwise(found))
    assert found[-1] == 1.0


def test_what_is_gone_goes_again_by_hand() -> None:
    """Weights 1 … 4: half go. Then those that went are scored high, and three quarters go: 3 joins them."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 3.0], [4.0, 2.0]]))
        gone = prune_weights(layer, Plan(0.5), scorer(layer))
        assert layer.weight.tolist() == [[0, 3], [4, 0]]
        layer.weight.copy_(torch.tensor([[9.0, 3.0], [4.0, 9.0]]))
        prune_weights(layer, Plan(0.75), scorer(layer), gone=gone)
    assert layer.weight.tolist() == [[0, 0], [4, 0]]


def test_channels_of_the_original_network_by_hand() -> None:
    """Four units, weakest first: one goes, then half of the four, so one more; places tell which are left."""
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[4.0], [1.0], [3.0], [2.0]]))
        net[2].weight.fill_(1.0)
    left = Left.whole(net, torch.zeros(1, 1))
    once, left = prune_channels(net, left, Plan(0.25), scorer(net))
    assert left.places["0"].tolist() == [0, 2, 3]
    twice, left = prune_channels(once, left, Plan(0.5), scorer(once))
    assert left.places["0"].tolist() == [0, 2]
    assert twice[0].weight.flatten().tolist() == [4, 3]
    assert torch.equal(twice[2].weight, net[2].weight[:, [0, 2]])


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("granularity", ["weight", "n:m", "block"])
def test_without_training_the_masks_are_those_of_one_shot(granularity: str, scope: str, schedule: str) -> None:
    w, model = mo.workload("digits"), build(Spec("mlp", (("sizes", (64, 64, 32, 10)),), (1, 8, 8)))  # no two alike
    once = mo.Prune(ratio=0.75, granularity=granularity, scope=scope)
    step = once.changed(rounds=3, schedule=schedule)
    for a, b in zip(once.apply(model, w).parameters(), step.apply(model, w).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("criterion", ["l1", "hebbian", "random", "fisher"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_ratios_are_of_the_original_through_all_rounds(granularity: str, criterion: str) -> None:
    """As many go as in one shot, whatever the criterion; layers with their own ratio and frozen ones have theirs."""
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    once = mo.Prune(ratio=0.5, granularity=granularity, criterion=criterion, ratios={"fc1": 0.75}, frozen=("fc2",))
    for step in (once, once.changed(rounds=3, recovery="fine-tuned", epochs=1)):
        thin = step.apply(model, w)
        if granularity == "channel":
            assert [m.out_features for m in thin.modules() if isinstance(m, nn.Linear)] == [16, 32, 10]
        else:
            assert zeros(thin)[:2] == [0.75, 0.0]
            assert zeros(thin)[2] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_furthest_ratio_in_rounds_keeps_one_channel(name: str, scope: str) -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", name)
    said: list[object] = []
    STORE.clear()
    thin = mo.Prune(ratio=0.999, rounds=4, schedule="cubic", scope=scope).apply(model, w, report=said.append)
    assert all(row.outputs >= 1 for row in mo.layers(thin, w.example))
    notes = [str(event) for event in said if not isinstance(event, Progress)]
    assert len(notes) == len(set(notes)) > 0


@pytest.mark.parametrize(
    "spec", [Spec("cnn", (), (1, 8, 8)), Spec("lenet5", (), (1, 28, 28)), Spec("textcnn", (), (9,), "int64")]
)
def test_groups_followed_are_the_groups_found_anew(spec: Spec) -> None:
    model = build(spec)
    found = channels.groups(model, spec.example)
    keep = {g.name: torch.arange(1, g.size, 2) for g in found if not g.frozen}
    followed = channels.narrowed(found, keep)
    for mine, fresh in zip(followed, channels.groups(channels.narrow(model, found, keep), spec.example), strict=True):
        assert (mine.name, mine.size, mine.frozen) == (fresh.name, fresh.size, fresh.frozen)
        for a, b in zip(mine.members, fresh.members, strict=True):
            assert (a.layer, a.role, a.length) == (b.layer, b.role, b.length)
            assert torch.equal(a.places, b.places)


def test_only_fine_tuning_lasts() -> None:
    digits = mo.workload("digits")
    steps = [mo.Prune(rounds=5, recovery=r) for r in ("none", "norms", "fine-tuned")]
    assert [step.lasts(digits) for step in steps] == [False, False, True]
    assert mo.Finetune().lasts(digits)
    assert not mo.Quantize().lasts(digits)


def test_fields_matter_only_where_they_mean_something() -> None:
    def shown(**values: object) -> set[str]:
        return {f for f in ("schedule", "epochs", "lr", "batch_size") if mo.Prune.matters(f, dict(mo.Prune(**values)))}

    assert shown() == set()
    assert shown(rounds=2) == {"schedule"}
    assert shown(recovery="fine-tuned") == {"epochs", "lr", "batch_size"}


def test_fine_tuning_mends_and_what_is_pruned_stays_pruned() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    raw = mo.Prune(ratio=0.9, granularity="weight", epochs=5, lr=1e-2)
    scores = [mo.predictions(s.apply(model, w), w).scores.mean() for s in (raw, raw.changed(recovery="fine-tuned"))]
    assert scores[1] > scores[0] + 0.05
    tuned = raw.changed(recovery="fine-tuned", rounds=2).apply(model, w)
    assert zeros(tuned) == pytest.approx([0.9] * 3, abs=0.003)
    assert not tuned.training


@pytest.mark.parametrize("step", [mo.Prune(recovery="fine-tuned", epochs=1), mo.Finetune(epochs=1)])
def test_varied_examples_are_other_examples(step: mo.Prune | mo.Finetune) -> None:
    w, model = mo.workload("digits"), build(Spec("cnn", (), (1, 8, 8)))
    plain, varied, again = (step.changed(augment=a).apply(model, w, report=lambda _: None) for a in (False, True, True))
    assert torch.equal(varied.fc1.weight, again.fc1.weight)
    assert not torch.equal(plain.fc1.weight, varied.fc1.weight)


def test_progress_goes_through_all_rounds() -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    said: list[Progress] = []
    step = mo.Prune(ratio=0.5, granularity="weight", rounds=3, recovery="fine-tuned", epochs=2, lr=1.1e-3)
    step.apply(model, w, report=said.append)  # type: ignore[arg-type]
    assert {event.total for event in said} == {3 * 2 * 17}  # 1,078 examples in batches of 64
    steps = [event.step for event in said]
    assert steps == sorted(steps)
    assert steps[-1] == said[-1].total
    assert [event.values["round"] for event in said if event.checkpoint] == [1, 1, 2, 2, 3, 3]
    said.clear()
    step.changed(recovery="norms").apply(model, w, report=said.append)  # type: ignore[arg-type]
    assert [(event.step, event.total) for event in said] == [(1, 3), (2, 3), (3, 3)]


class Killed(Exception):
    """The process ended here."""


class Folder:
    """Keeps the last checkpoint of every training, and ends the process in the middle of round 2."""

    def __init__(self, until: int) -> None:
        self.kept: dict[str, bytes] = {}
        self.running, self.until, self.seen = "", until, 0

    def __call__(self, event: object) -> None:
        if isinstance(event, Progress) and event.checkpoint:
            self.kept[self.running] = event.checkpoint()
            self.seen += 1
            if self.seen == self.until:
                raise Killed

    def recall(self, training: str) -> bytes | None:
        self.running = training
        return self.kept.get(training)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_killed_in_the_second_round_it_goes_on_bit_for_bit(granularity: str) -> None:
    w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
    step = mo.Prune(ratio=0.6, granularity=granularity, criterion="taylor", rounds=2, recovery="fine-tuned", epochs=2)
    whole = step.apply(model, w, seed=3)
    STORE.clear()
    folder = Folder(until=3)
    assert isinstance(folder, Keeper)
    with pytest.raises(Killed):
        step.apply(model, w, seed=3, report=folder)
    assert len(folder.kept) == 2
    again = step.apply(model, w, seed=3, report=folder)
    assert folder.seen == 4, "only the last epoch was left to do"
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rounds": 0}, r"Prune: rounds=0 is not allowed; rounds must be a whole number ≥ 1 and ≤ 100"),
        ({"rounds": 101}, r"rounds=101 is not allowed"),
        ({"schedule": "square"}, r"schedule=square is not allowed; schedule must be 'linear' or 'cubic'"),
        ({"recovery": "tuned"}, r"recovery=tuned is not allowed; recovery must be 'none', 'norms' or 'fine-tuned'"),
        ({"epochs": 0}, r"epochs=0 is not allowed; epochs must be a whole number ≥ 1 and ≤ 1000"),
        ({"lr": 0}, r"lr=0 is not allowed; lr must be a number > 0"),
        ({"batch_size": 0}, r"batch_size=0 is not allowed"),
    ],
)
def test_bad_input_is_one_line(given: dict[str, object], text: str) -> None:
    with pytest.raises(mo.ModelOptError, match=text):
        mo.Prune(**given)
