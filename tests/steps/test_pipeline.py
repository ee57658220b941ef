"""Pipelines: by hand, against NumPy, the module that skips, the file, and every sentence about what does not fit."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.errors import ModelOptError
from modelopt_core.files import mopt
from modelopt_core.runtime.inference import predict
from modelopt_core.steps.pipeline import Plan, Stage, chains, confused, wired
from modelopt_core.steps.pipeline.pipeline import Piped
from modelopt_core.steps.pipeline.plan import parse
from modelopt_core.steps.pipeline.single import single
from modelopt_core.steps.pipeline.walk import Kept, coarse, fine, remade, walk
from modelopt_core.workloads.subtask import Subtask
from modelopt_core.workloads.workload import Workload

EXPERTS = ["groups", "expert-1", "expert-2", "expert-3"]
MENDING = ("quality", "repair", "groups", "experts")
TWO = Plan((Stage("sort", "route", (0,), ((0, 2), (1,))), Stage("read", "answer", (1, 2), ((0, 2), (1,)))))
# One example: 0.6 for the first group; its expert says 0.9 to label 0, the other's has one label only.
SAID = torch.tensor([[[0.6, 0.4]], [[0.9, 0.1]], [[1.0, 0.0]]]).log()


@pytest.fixture(scope="module")
def w() -> Workload:
    return mo.workload("digits")


@pytest.fixture(scope="module")
def pool() -> list[nn.Module]:
    return [mo.baseline("digits", name) for name in EXPERTS]


@pytest.fixture(scope="module")
def mending() -> list[nn.Module]:
    return [mo.baseline("digits", name) for name in ("quality", "repair", *EXPERTS)]


def test_a_route_by_hand() -> None:
    """Sure enough: 0.6·0.9, 0.4, 0.6·0.1. The expert that is not asked has one label: nothing to be undecided about."""
    for threshold, asked in ((0.5, [1, 1, 0]), (0.7, [1, 1, 1])):
        source = Kept(TWO, SAID)
        found = walk(TWO, source, threshold, 0.5).said
        torch.testing.assert_close(found.exp(), torch.tensor([[0.54, 0.4, 0.06]]))
        assert source.ran[:, 0].tolist() == asked


def test_who_is_not_asked_is_undecided() -> None:
    plan = Plan((Stage("sort", "route", (0,), ((0,), (1, 2))), Stage("read", "answer", (1, 2), ((0,), (1, 2)))))
    said = torch.tensor([[[0.6, 0.4]], [[1.0, 0.0]], [[0.75, 0.25]]]).log()
    torch.testing.assert_close(walk(plan, Kept(plan, said), 0.5, 0.5).said.exp(), torch.tensor([[0.6, 0.2, 0.2]]))
    torch.testing.assert_close(walk(plan, Kept(plan, said), 0.7, 0.5).said.exp(), torch.tensor([[0.6, 0.3, 0.1]]))


def test_a_judge_and_a_map_by_hand() -> None:
    """The second of two examples is flagged: the reader is asked about what the map made of it."""
    plan = Plan((Stage("check", "judge", (0,)), Stage("mend", "map", (1,)), Stage("read", "answer", (2,))))
    assert plan.ways == ((), (1,))
    assert plan.parts == ((0, ()), (2, ()), (2, (1,)))
    said = torch.tensor([[[0.8, 0.2], [0.3, 0.7]], [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]).log()
    said[1, :, 1], said[2, :, 0] = -50, -50
    source = Kept(plan, said)
    assert walk(plan, source, 0.5, 0.5).said.argmax(dim=1).tolist() == [0, 1]
    assert source.ran.tolist() == [[1, 1], [0, 1], [1, 1]]
    assert walk(plan, Kept(plan, said), 0.5, 0.9).said.argmax(dim=1).tolist() == [0, 0]
    assert walk(plan, Kept(plan, said), 0.5, 0.1).said.argmax(dim=1).tolist() == [1, 1]


def test_a_model_of_all_labels_sorts_and_answers_within() -> None:
    said = torch.tensor([[0.5, 0.2, 0.3]]).log()
    torch.testing.assert_close(coarse(said, ((0, 2), (1,))).exp(), torch.tensor([[0.8, 0.2]]))
    torch.testing.assert_close(fine(said, torch.tensor([0, 2])).exp(), torch.tensor([[0.625, 0.375]]))
    assert torch.equal(coarse(said, ((0,), (1,), (2,))), said)
    assert torch.equal(fine(said[:, :2], torch.tensor([1, 2])), said[:, :2])


def reference(groups: tuple[tuple[int, ...], ...], route: NDArray[np.float64], experts: list[NDArray[np.float64]],
              threshold: float) -> NDArray[np.float64]:  # fmt: skip
    """Example by example, in probabilities: route (n, G), experts (n, k) each -> (n, K)."""
    said = np.zeros((len(route), sum(map(len, groups))))
    for i, row in enumerate(route):
        for g, labels in enumerate(groups):
            asked = row.max() < threshold or g == row.argmax()
            for place, label in enumerate(labels):
                said[i, label] = row[g] * (experts[g][i, place] if asked else 1 / len(labels))
    return said


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("groups", [((0,), (1,)), ((1, 3), (0, 2, 4)), ((5,), (0, 1, 2), (3, 4))])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
def test_a_route_is_what_numpy_says(groups: tuple[tuple[int, ...], ...], n: int, threshold: float) -> None:
    """Looked up, asked in a batch and asked one by one."""
    draw, sizes = torch.Generator().manual_seed(n), [len(groups), *map(len, groups)]
    said = [torch.randn(n, size, generator=draw).log_softmax(1) for size in sizes]
    plan = Plan((Stage("s", "route", (0,), groups), Stage("e", "answer", tuple(range(1, len(sizes))), groups)))
    padded = torch.stack([nn.functional.pad(one, (0, max(sizes) - one.shape[1]), value=-torch.inf) for one in said])
    probabilities = [one.double().exp().numpy() for one in said]
    expected = reference(groups, probabilities[0], probabilities[1:], threshold)
    found = walk(plan, Kept(plan, padded), threshold, 0.5).said.exp()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, atol=1e-5)
    for i in range(n):
        calls = [lambda _, one=one, i=i: one[i : i + 1] for one in said]
        alone = single(plan, calls, torch.zeros(1, 1), threshold, 0.5)  # type: ignore[arg-type]
        np.testing.assert_allclose(alone.exp().numpy()[0], expected[i], atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.9, 1.0])
def test_module_arithmetic_and_what_really_runs_agree(w: Workload, mending: list[nn.Module], threshold: float) -> None:
    data = mo.damaged(w)
    whole = mo.Pipeline(stages=MENDING, threshold=threshold, suspicion=0.4).apply(mending, data)
    kept = mo.predictions(whole, data).outputs.logits
    with torch.no_grad():
        torch.testing.assert_close(whole(data.val.inputs), kept, atol=2e-3, rtol=1e-3)
    ran = predict(mo.compile(whole, data), data.val.inputs[:90], batch=1)
    torch.testing.assert_close(ran, kept[:90], atol=2e-3, rtol=1e-3)


def test_only_who_is_needed_runs(w: Workload, pool: list[nn.Module]) -> None:
    """One image, one thread of calls: the route and one expert; all three where it is unsure."""
    for threshold, expected in ((0.0, 2), (1.01, 4)):
        whole = mo.Pipeline(threshold=min(threshold, 1)).apply(pool, w)
        whole.get_buffer("thresholds")[0] = threshold
        asked: list[int] = []

        def call(i: int, inputs: Tensor, asked: list[int] = asked) -> Tensor:
            asked.append(i)
            with torch.no_grad():
                return pool[i](inputs)  # type: ignore[no-any-return]

        calls = [lambda x, i=i, call=call: call(i, x) for i in range(4)]  # type: ignore[misc]
        whole.run(calls, w.val.inputs[:1])  # type: ignore[operator]
        assert len(asked) == expected
        assert asked[0] == 0


def test_multiply_accumulates_are_of_what_ran(w: Workload, mending: list[nn.Module]) -> None:
    """Judge always, the map once where it mends, the route always, of the experts the share that was asked."""
    data = mo.damaged(w)
    whole = mo.Pipeline(stages=MENDING, threshold=0.0).apply(mending, data)
    each = [mo.measure(model, data).macs for model in mending]
    assert isinstance(whole, Piped)
    said = [mo.predictions(model, data) for model in whole.parts]
    flagged = said[0].outputs.log_probabilities[:, 1].exp() >= 0.5
    group = mo.predictions(whole, data).outputs.log_probabilities.argmax(dim=1)
    assert mo.measure(whole, data).macs < sum(each)
    expected = each[0] + float(flagged.float().mean()) * each[1] + each[2] + each[3]  # the three experts are one size
    assert abs(each[3] - each[4]) < 20
    assert mo.measure(whole, data).macs == pytest.approx(expected, abs=20)
    assert len(group) == len(data.val)


def test_predictions_are_used_again(w: Workload, pool: list[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """A moved threshold runs no network."""
    for model in pool:
        mo.predictions(model, w)
    monkeypatch.setattr(
        sys.modules["modelopt_core.measuring.measurement"], "predict", lambda *_, **__: pytest.fail("a network ran")
    )
    assert len(mo.predictions(mo.Pipeline(threshold=0.77).apply(pool, w), w).scores) == len(w.val)


@pytest.mark.parametrize("name", ["digits", "docstrings", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_the_shipped_pipeline_of_every_workload(name: str) -> None:
    data = mo.workload(name)
    models = [mo.baseline(name, m) for task in map(data.subtask, ("groups", "experts")) for m in task.models]
    whole = mo.Pipeline().apply(models, data)
    assert mo.predictions(whole, data).scores.mean() > data.chance + 0.3


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_repair_helps_a_reader_that_meets_damage(name: str) -> None:
    """On the shipped models, val: with judge and map the reader knows more of the damaged half."""
    data = mo.damaged(mo.workload(name))
    reader = mo.baseline(name, data.subtask("digit").models[0])
    models = [mo.baseline(name, "quality"), mo.baseline(name, "repair"), reader]
    whole = mo.Pipeline(stages=("quality", "repair", "digit")).apply(models, data)
    found, alone = (mo.predictions(model, data).scores[data.harmed["val"]].mean() for model in (whole, reader))
    assert found > alone + 0.1


def test_the_file_and_steps_before_and_after(w: Workload, pool: list[nn.Module], tmp_path: object) -> None:
    thin = [mo.Quantize(bits=6).apply(mo.Prune(ratio=0.2).apply(model, w), w) for model in pool]
    whole = mo.Quantize(bits=8).apply(mo.Pipeline(threshold=0.8).apply(thin, w), w)
    back = mo.load(mo.save(whole, f"{tmp_path}/p.mopt"))
    with torch.no_grad():
        assert torch.equal(back(w.val.inputs[:20]), whole(w.val.inputs[:20]))
    assert mopt.sizes(whole).size_bytes < mopt.sizes(mo.Pipeline().apply(pool, w)).size_bytes / 2
    both = mo.Ensemble().apply([whole, mo.baseline("digits", "mlp")], w)
    assert len(mo.predictions(both, w).scores) == len(w.val)


def test_an_ensemble_is_an_expert_and_a_cascade_reads(w: Workload) -> None:
    cnn, mlp = (mo.baseline("digits", name) for name in ("cnn", "mlp"))
    both, early = mo.Ensemble().apply([cnn, mlp], w), mo.Cascade(threshold=0.9).apply([mlp, cnn], w)
    mend = [mo.baseline("digits", name) for name in ("quality", "repair")]
    data = mo.damaged(w)
    for step, models in (
        (mo.Pipeline(), [mlp, both]),
        (mo.Pipeline(stages=("quality", "repair", "digit")), [*mend, early]),
    ):
        whole = step.apply(models, data)
        with torch.no_grad():
            kept = mo.predictions(whole, data).outputs.logits[:30]
            torch.testing.assert_close(whole(data.val.inputs[:30]), kept, atol=2e-3, rtol=1e-3)


def test_distilled_members_and_a_pipeline_as_teacher(w: Workload, pool: list[nn.Module]) -> None:
    """In a recipe: two students become one pipeline; a pipeline's answers teach one small network."""
    both = [mo.baseline("digits", name) for name in ("cnn", "mlp")]
    short = mo.STEPS["Distill"](epochs=1, batch_size=512, student="mlp")
    whole = mo.run((short, mo.Pipeline()), both, w)[-1]
    assert whole.label.startswith("Pipeline")
    student = short.apply(mo.Pipeline().apply(pool, w), w)
    assert mo.measure(student, w).size_bytes < mo.measure(mo.baseline("digits", "mlp"), w).size_bytes


def test_prune_goes_first(w: Workload, pool: list[nn.Module]) -> None:
    with pytest.raises(ModelOptError, match="Prune cannot trace Pipeline; put Prune before Pipeline"):
        mo.Prune(ratio=0.3, granularity="channel").apply(mo.Pipeline().apply(pool, w), w)


class Crop(nn.Module):
    """A detector that always finds the upper left quarter."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :4, :4]


def test_a_detector_hands_a_region_to_a_classifier(w: Workload) -> None:
    """No workload ships one; types and shapes carry it."""
    tasks = (Subtask("find", "map", "image", "region", ""), Subtask("name", "answer", "region", "label", ""))
    data = replace(w, subtasks=tasks)
    names = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    whole = mo.Pipeline(stages=("find", "name")).apply([Crop(), names], data)
    with torch.no_grad():
        expected = names(data.val.inputs[:5, :, :4, :4]).log_softmax(1)
        torch.testing.assert_close(whole(data.val.inputs[:5]), expected)
        kept = mo.predictions(whole, data).outputs.logits[:5]
    torch.testing.assert_close(kept, expected, atol=1e-4, rtol=1e-4)
    assert remade(torch.full((2, 4), 3.0), torch.zeros(2, 1, 2, 2)).tolist() == torch.ones(2, 1, 2, 2).tolist()


def test_a_plan_comes_back_from_its_text(w: Workload) -> None:
    plan = wired(MENDING, w, 6)
    assert parse(plan.text, 6) == plan
    assert [stage.kind for stage in plan.stages] == ["judge", "map", "route", "answer"]
    assert wired(MENDING, w, 4).stages[-1].members == (3,)


def test_chains_are_what_can_be_wired(w: Workload) -> None:
    """All rows of up to four different subtasks, tried one by one."""
    names, possible = [task.name for task in w.subtasks], set()
    for n in (2, 3, 4):
        for row in permutations(names, n):
            counts = sum(w.subtask(name).experts for name in row)
            with suppress(ModelOptError):
                wired(row, w, counts)
                possible.add(row)
    assert set(chains(w)) == possible == {("groups", "experts"), ("quality", "repair", "digit"), MENDING}
    assert chains(mo.workload("docstrings")) == [("groups", "experts")]


def test_confused_by_hand() -> None:
    """0 and 2 are taken for each other, 1 for nobody."""
    said = torch.tensor([[0.6, 0.0, 0.4], [0.05, 0.9, 0.05], [0.3, 0.1, 0.6]]).clamp_min(1e-6).log()
    assert confused(said, torch.tensor([0, 1, 2]), 2) == ((0, 2), (1,))
    assert confused(said, torch.tensor([0, 1, 2]), 3) == ((0,), (1,), (2,))
    for groups in (1, 4):
        with pytest.raises(ModelOptError, match=f"{groups} groups of 3 labels are not possible; choose from 2 to 3"):
            confused(said, torch.tensor([0, 1, 2]), groups)


@pytest.mark.parametrize(
    ("name", "model"), [("digits", "cnn"), pytest.param("mnist", "mlp30", marks=pytest.mark.mnist)]
)
def test_the_groups_of_digits_are_what_is_confused(name: str, model: str) -> None:
    data = mo.workload(name)
    said = mo.predictions(mo.baseline(name, model), data).outputs.log_probabilities
    assert set(confused(said, data.val.targets, 3)) == set(data.subtask("groups").groups)
