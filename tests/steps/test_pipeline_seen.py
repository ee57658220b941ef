"""A stage that finds and cuts out: by hand, its switches, the graph, and what the last stage really took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.models.spec import Spec
from modelopt_core.steps.pipeline import Seen, chains, follow, seen
from modelopt_core.steps.pipeline.pipeline import Piped
from modelopt_core.steps.pipeline.walk import is_box, remade
from modelopt_core.structure.build import build
from modelopt_core.tasks.boxes import crop
from modelopt_core.workloads.augment import scatter
from modelopt_core.workloads.damage import Scattered
from modelopt_core.workloads.subtask import locating
from modelopt_core.workloads.workload import Workload

FINDING = ("locate", "groups", "experts")


@pytest.fixture(scope="module")
def data() -> Scattered:
    plain = mo.workload("digits")
    return mo.scattered(replace(plain, scatter=scatter, subtasks=(*plain.subtasks, locating("image"))))


@pytest.fixture(scope="module")
def locator() -> nn.Module:
    """Not trained: boxes that lie somewhere."""
    model = build(Spec("mlp", (("sizes", (64, 3)),), (1, 8, 8)), seed=3)
    with torch.no_grad():
        model.fc1.bias.copy_(torch.tensor([0.5, 0.5, 0.6]))  # type: ignore[union-attr]
    return model


def whole_of(locator: nn.Module, data: Workload, stages: tuple[str, ...] = ("locate", "digit")) -> Piped:
    readers = ["cnn"] if stages[-1] == "digit" else ["groups", "expert-1", "expert-2", "expert-3"]
    made = mo.Pipeline(stages=stages, threshold=0.8).apply(
        [locator, *(mo.baseline("digits", name) for name in readers)], data
    )
    assert isinstance(made, Piped)
    return made


def test_boxes_are_told_from_pixels() -> None:
    image = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.5, 0.5, 1.0], [0.4, 0.4, 0.5]])
    assert torch.equal(remade(boxes, image), crop(image, boxes))
    assert torch.equal(remade(image.flatten(1), image), image)
    assert not is_box(boxes, torch.zeros(2, 3, 1, 1)), "three pixels are three pixels"
    assert not is_box(boxes, torch.zeros(2, 5))


def test_module_predictions_and_graph_agree(data: Scattered, locator: nn.Module, tmp_path: Path) -> None:
    for stages in (("locate", "digit"), FINDING):
        whole = whole_of(locator, data, stages)
        kept = mo.predictions(whole, data).outputs.logits[:40]
        with torch.no_grad():
            torch.testing.assert_close(whole(data.val.inputs[:40]), kept, atol=2e-3, rtol=1e-3)
        session = onnxruntime.InferenceSession(mo.export_onnx(whole, data, tmp_path / "p.onnx"))
        said = [session.run(None, {"inputs": x.numpy()})[0] for x in data.val.inputs[:40].split(7)]
        np.testing.assert_allclose(np.concatenate(said), kept.numpy(), atol=2e-3, rtol=1e-3)


def test_truth_is_the_true_box_and_off_is_the_whole_picture(data: Scattered, locator: nn.Module) -> None:
    """Each switch is what the reader alone says, of other inputs."""
    reader, whole = mo.baseline("digits", "cnn"), whole_of(locator, data)
    true = follow(whole, data, switches={"locate": "oracle"})
    off = follow(whole, data, switches={"locate": "off"})
    assert torch.equal(true.answers, mo.predictions(reader, data.whole).answers)
    assert torch.equal(off.answers, mo.predictions(reader, data).answers)
    assert (true.how, off.how) == ("simulated", "measured")
    found = follow(whole, data)
    better = (found.answers != data.val.targets) & (true.answers == data.val.targets)
    assert torch.equal(found.lost == 0, better), "lost at locate where the true box would have been read right"


@pytest.mark.parametrize("switch", ["model", "oracle", "off"])
def test_what_the_last_stage_saw(data: Scattered, locator: nn.Module, switch: str) -> None:
    """Asked again about it, the reader gives the answers of the flow."""
    reader, whole, rows = mo.baseline("digits", "cnn"), whole_of(locator, data), [0, 7, 300]
    flow = follow(whole, data, switches={"locate": switch})
    found = seen(whole, data, flow, rows)
    with torch.no_grad():
        assert reader(found.inputs).argmax(dim=1).tolist() == flow.answers[rows].tolist()
        boxes = {"model": locator(data.val.inputs[rows]), "oracle": data.truth["val"][rows]}
    torch.testing.assert_close(found.boxes, boxes.get(switch, torch.full((3, 3), torch.nan)), equal_nan=True)
    assert seen(whole, data, flow, []).inputs.shape == (0, 1, 8, 8)


def test_what_was_repaired_is_seen_as_well() -> None:
    data = mo.damaged(mo.workload("digits"))
    models = [mo.baseline("digits", name) for name in ("quality", "repair", "cnn")]
    whole = mo.Pipeline(stages=("quality", "repair", "digit")).apply(models, data)
    assert isinstance(whole, Piped)
    flow = follow(whole, data)
    found = seen(whole, data, flow, range(40))
    same = (found.inputs == data.val.inputs[:40]).flatten(1).all(dim=1)
    assert torch.equal(same, ~flow.ran[1, :40])
    assert found.boxes.isnan().all()
    known = follow(whole, data, switches={"quality": "oracle", "repair": "oracle"})
    assert torch.equal(seen(whole, data, known, range(40)).inputs, data.sound("val")[:40])


def test_a_map_that_was_not_asked_for(data: Scattered, locator: nn.Module) -> None:
    """Nothing was scattered: the truth is to leave all as it is, which is what off does, too."""
    plain = data.origin
    whole = whole_of(locator, plain)
    scores = [follow(whole, plain, switches={"locate": mode}).score for mode in ("oracle", "off")]
    alone = mo.predictions(mo.baseline("digits", "cnn"), plain).scores.mean()
    assert [score.value for score in scores] == pytest.approx([float(alone)] * 2)


@pytest.mark.mnist
def test_the_shipped_detector_makes_a_reader_read() -> None:
    """On val: far better than the reader alone; with the true box as good as unscattered, but for shrinking."""
    plain = mo.workload("mnist")
    data, reader = mo.scattered(plain), mo.baseline("mnist", "article")
    assert ("locate", "digit") in chains(plain)
    whole = mo.Pipeline(stages=("locate", "digit")).apply([mo.baseline("mnist", "locate"), reader], data)
    found, alone, unscattered = (
        float(mo.predictions(m, d).scores.mean()) for m, d in ((whole, data), (reader, data), (reader, plain))
    )
    true = follow(whole, data, switches={"locate": "oracle"}).score.value
    assert alone + 0.4 < found < true
    assert true == pytest.approx(unscattered, abs=0.02)


def test_a_box_is_handed_on_by_stages_in_python(data: Scattered, locator: nn.Module) -> None:
    """One image through a reader that branches: no graph, the same answer."""
    models = [mo.baseline("digits", name) for name in ("mlp", "cnn")]
    early = mo.Cascade(threshold=0.9).apply(models, data)
    whole = mo.Pipeline(stages=("locate", "digit")).apply([locator, early], data)
    kept = mo.predictions(whole, data).outputs.logits[:5]

    def one(x: Tensor) -> Tensor:
        return mo.compile(whole, data)(x)

    torch.testing.assert_close(torch.cat([one(x) for x in data.val.inputs[:5].split(1)]), kept, atol=2e-3, rtol=1e-3)


def test_outlines_by_hand() -> None:
    """In the middle, half as large; the true one in a corner; of the second nothing is known."""
    none = [torch.nan] * 3
    found = Seen(
        torch.zeros(2, 1, 4, 4), torch.tensor([[0.5, 0.5, 0.5], none]), torch.tensor([[0.25, 0.75, 0.5], none])
    )
    assert found.outlines(0) == [("true", (0.0, 0.5, 0.5)), ("found", (0.25, 0.25, 0.5))]
    assert found.overlap(0) == pytest.approx(1 / 7)
    assert (found.outlines(1), found.overlap(1)) == ([], None)
