"""Steps as data: hash, equality, knobs, and a Combine that needs no special case anywhere."""

from collections.abc import Sequence
from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import nn

import modelopt_core as mo
from modelopt_core.machine.events import Note, NotesApart, silent
from modelopt_core.steps.fuse.path import path
from modelopt_core.steps.knob import Doublings, Knob


class Mean(mo.Combine):
    """Averages the logits of the pool (a test's own)."""

    def combine(self, models: Sequence[nn.Module], workload, generator, report) -> nn.Module:
        class Average(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.members = nn.ModuleList(models)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.stack([m(x) for m in self.members]).mean(dim=0)

        return Average()


class Noise(mo.Transform):
    """Adds noise to every weight (a test's own)."""

    size: Annotated[float, Knob(0.0, 1.0, 0.25, "s")] = Field(0.1, ge=0)

    def transform(self, model, workload, generator, report):
        for p in model.parameters():
            p.add_(self.size * torch.randn(p.shape, generator=generator))
        return model


def test_knob_goes_coarse_to_fine_by_hand():
    assert Knob(0.0, 1.0, 0.25, "p").values(5) == [0.0, 1.0, 0.5, 0.25, 0.75]
    assert Knob(1, 8, 1, "b").values(99) == [1, 8, 5, 3, 7, 2, 4, 6]
    assert Knob(0.0, 0.99, 0.01, "p").values(2) == [0.0, 0.99]


@pytest.mark.parametrize(
    ("ends", "stops"), [((1, 8), [1, 2, 4, 8]), ((3, 20), [3, 6, 12, 20]), ((1, 2), [1, 2]), ((5, 9), [5, 9])]
)
def test_doublings_by_hand(ends, stops):
    assert Doublings(*ends).stops == stops


def test_knob_with_stops_beyond_its_range():
    knob = Knob(1, 8, 1, "b", beyond=(16,))
    assert knob.stops == [1, 2, 3, 4, 5, 6, 7, 8, 16]
    assert knob.values(99) == [1, 16, 5, 3, 7, 2, 4, 6, 8]
    assert [knob.nearest(value) for value in (0, 4.2, 11, 13, 99)] == [1, 4, 8, 16, 16]


@pytest.mark.parametrize("points", [2, 3, 10, 34, 100, 1000])
def test_knob_values_are_distinct_ticks_with_both_ends(points):
    values = Knob(0.0, 0.99, 0.01, "p").values(points)
    assert values[:2] == [0.0, 0.99]
    assert len(values) == len(set(values)) <= points + 1
    assert all(abs(v * 100 - round(v * 100)) < 1e-9 for v in values)


@pytest.mark.parametrize("points", [1, 0, -3])
def test_a_curve_has_two_ends(points):
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    with pytest.raises(mo.ModelOptError, match=rf"points={points} is not allowed; a curve has 2 ends, so choose 2"):
        list(mo.curve(mo.Prune(), "ratio", model, w, points=points))
    with pytest.raises(mo.ModelOptError, match=rf"points={points} is not allowed; a line has 2 ends, so choose 2"):
        list(path(model, model, w, points=points))


def test_steps_are_values():
    assert mo.Prune(ratio=0.3) == mo.Prune()
    assert hash(mo.Prune(ratio=0.25)) == hash(mo.Prune(ratio=0.25))
    assert mo.Prune().label == "Prune(ratio=0.3)"
    assert mo.Prune(ratio=0.25, scope="global").label == "Prune(ratio=0.25, scope=global)"
    assert mo.Prune().changed(ratio=0.1).ratio == 0.1
    with pytest.raises(Exception, match="frozen"):
        mo.Prune().ratio = 0.1


def test_knob_that_is_not_there_names_those_that_are():
    with pytest.raises(mo.ModelOptError, match="Prune has no knob 'criterion'; choose from ratio"):
        mo.Prune.knob("criterion")


def test_apply_computes_once_and_notices_tampering():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    first = Noise(size=0.5).apply(model, w, seed=3)
    assert Noise(size=0.5).apply(model, w, seed=3) is first
    assert Noise(size=0.5).apply(model, w, seed=4) is not first
    expected = first.fc1.weight.clone()
    with torch.no_grad():
        first.fc1.weight.zero_()
    assert torch.equal(Noise(size=0.5).apply(model, w, seed=3).fc1.weight, expected)


def test_combine_collapses_the_pool_and_leaves_it_alone():
    w = mo.workload("digits")
    pool = [mo.baseline("digits", "cnn"), mo.baseline("digits", "mlp")]
    before = [p.clone() for m in pool for p in m.parameters()]
    stages = mo.run((mo.Quantize(bits=8), Mean()), pool, w)
    assert [(s.label, s.branch) for s in stages] == [
        ("baseline", 0), ("baseline", 1), ("Quantize(bits=8)", 0), ("Quantize(bits=8)", 1), ("Mean()", 0),
    ]  # fmt: skip
    assert stages[-1].measurement.macs == sum(s.measurement.macs for s in stages[:2])
    assert stages[-1].measurement.score.value > 0.9
    assert all(torch.equal(a, b) for a, b in zip(before, (p for m in pool for p in m.parameters()), strict=True))


class Talkative(mo.Transform):
    """Says something to read and something to watch (a test's own)."""

    def transform(self, model, workload, generator, report):
        report(Note("one channel stays"))
        report(mo.Progress("talk", 1, 1))
        return model


def test_a_kept_result_tells_its_notes_again():
    w, model = mo.workload("digits"), mo.baseline("digits", "mlp")
    first, again, after = [], [], []
    result = Talkative().apply(model, w, report=first.append)
    assert Talkative().apply(model, w, report=again.append) is result
    assert [e for e in first if isinstance(e, Note)] == again == [Note("one channel stays")]
    assert any(isinstance(e, mo.Progress) for e in first)
    Noise(size=0.2).apply(result, w, report=after.append)
    assert after == []  # notes are of a step, not of what came before it


def test_notes_apart_keeps_checkpoints_where_the_report_does():
    class Kept:
        def __call__(self, event):
            pass

        def recall(self, training):
            return training.encode()

    assert NotesApart(Kept()).recall("a") == b"a"
    assert NotesApart(silent).recall("a") is None
