"""The contract, over everything that is registered. A new criterion, step or workload is tested by being there."""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import modelopt_core as mo
from modelopt_core.machine.events import silent
from modelopt_core.models import identity
from modelopt_core.steps.prune import Stats
from modelopt_core.steps.quantize import RoundingContext
from modelopt_core.training.zoo import ZOO
from tests.waiting import LIMIT_S

PAIRS = [("digits", "cnn"), ("digits", "mlp"), ("docstrings", "bag"), ("docstrings", "textcnn")]
STEPS = [
    *(mo.Prune(criterion=c, granularity=g, ratio=0.5) for c in mo.CRITERIA for g in mo.CRITERIA[c]["granularity"]),
    mo.Prune(scope="global", ratio=0.3),
    *(mo.Quantize(observer=o, scheme=s) for o in mo.OBSERVERS for s in ("symmetric", "affine") if mo.OBSERVERS[o][s]),
    *(mo.Quantize(rounding=r, bits=3, per="tensor") for r in mo.ROUNDINGS),
    *(mo.Distill(loss=loss, epochs=1, batch_size=512) for loss in mo.LOSSES if loss != "attention"),  # needs positions
    mo.Quantize(bits=3, per="group"),
    mo.Quantize(bits=3, scheme="codebook"),
    mo.Quantize(bits=3, prepare="equalise", activations=4, recovery="bias"),
]
COMBINES = [
    *(mo.Ensemble(rule=r, weights=(2.0, 1.0)) for r in mo.RULES),
    *(mo.Cascade(threshold=0.8, confidence=c) for c in mo.CONFIDENCES),
    mo.Pipeline(threshold=0.9),
    *(mo.Fuse(of=of, strengths=(0.1,)) for of in ("outputs", "features")),
]
FUSES = [mo.Fuse(merge=m, density=0.5) for m in mo.MERGES]
REGISTRIES = [mo.CRITERIA, mo.OBSERVERS, mo.ROUNDINGS, mo.LOSSES, mo.RULES, mo.CONFIDENCES, mo.MERGES]
SIZES = [(1, 1), (1, 7), (3, 1), (4, 5), (16, 9)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits_of(model: torch.nn.Module) -> bytes:
    return b"".join(t.detach().numpy().tobytes() for t in model.state_dict().values())


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
@pytest.mark.parametrize("step", STEPS, ids=lambda s: s.label)
def test_transform(step, pair):
    """Input bit-identical (R11); same seed, same result; eval mode and finite; the same answers' shape."""
    w, model = mo.workload(pair[0]), mo.baseline(*pair)
    before, key = bits_of(model), identity.key(model)
    if getattr(step, "criterion", "") == "bn_scale" and pair != ("digits", "cnn"):
        with pytest.raises(mo.ModelOptError, match="needs batch norm"):
            step.apply(model, w, seed=1)
        return
    result = step.apply(model, w, seed=1)
    again = step.apply(mo.baseline(*pair), w, seed=1)
    assert bits_of(model) == before
    assert identity.key(model) == key
    assert bits_of(result) == bits_of(again)
    assert not result.training
    inputs = w.val.inputs[:5]
    with torch.no_grad():
        assert torch.isfinite(result(inputs)).all()
        assert result(inputs).shape == model(inputs).shape


@pytest.mark.parametrize("pair", PAIRS, ids="/".join)
@pytest.mark.parametrize("ratio", [0.0, 0.001, 0.999])
def test_edges_of_the_ratio(pair, ratio):
    w, model = mo.workload(pair[0]), mo.baseline(*pair)
    for granularity in ("weight", "channel"):
        m = mo.measure(mo.Prune(ratio=ratio, granularity=granularity).apply(model, w), w, baseline=model)
        assert m.nonzero >= 1
        assert m.size_bytes > 0
        assert 0 <= m.score.low <= m.score.value <= m.score.high <= 1
        assert 0 < m.latency_ms.value < float("inf")


@pytest.mark.parametrize("step", [*STEPS, *COMBINES, *FUSES, mo.Finetune(epochs=1)], ids=lambda s: s.label)
def test_steps_are_data(step):
    assert mo.from_json(mo.to_json([step])) == (step,)
    assert hash(type(step)(**step.model_dump())) == hash(step)
    json.dumps(type(step).model_json_schema())
    for name, field in type(step).model_fields.items():
        assert field.description, f"{step.name}.{name} has no help"
        assert field.title, f"{step.name}.{name} has no title"
    assert step.name in mo.STEPS


@pytest.mark.parametrize("entry", [e for r in REGISTRIES for e in r.values()], ids=lambda e: e.name)
def test_docstring_says_what_and_source(entry):
    text = inspect.getdoc(entry.function)
    assert "->" in text.split("\n\n")[0], "the first lines give the shapes"
    assert "Source: " in text
    assert entry.source.startswith("@")


def stats_of(shape: tuple[int, int], channels: bool, fill: Callable[..., torch.Tensor]) -> Stats:
    """Stats with every field made by `fill(*shape)`; sums of squares are not negative."""
    signed = {name: fill(*shape) for name in ("weight", "grad", "joint")}
    squares = {name: fill(*shape).square() for name in ("square", "pre")}
    return Stats(generator=generator(), channels=channels, bn_scale=fill(shape[0]).abs(), **signed, **squares)


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("entry", list(mo.CRITERIA.values()), ids=lambda e: e.name)
def test_criterion(entry, shape, channels):
    if ("channel" if channels else "weight") not in entry["granularity"]:
        return
    draw = generator()
    drawn = stats_of(shape, channels, lambda *s: torch.randn(s, generator=draw))
    scores = entry(drawn)
    assert scores.shape in ((shape, shape[:1]) if channels else (shape,))
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all(), "channels of a layer are scaled by their mean"
    for value in (0.0, -1e-20, 1e8):
        assert torch.isfinite(entry(stats_of(shape, channels, lambda *s, value=value: torch.full(s, value)))).all()
    if entry["equivariant"]:
        order = torch.randperm(shape[0], generator=generator())
        moved = {n: t[order] for n, t in vars(drawn).items() if isinstance(t, torch.Tensor)}
        torch.testing.assert_close(entry(replace(drawn, **moved)), scores[order])


@pytest.mark.parametrize("entry", list(mo.CRITERIA.values()), ids=lambda e: e.name)
def test_criterion_reads_only_what_it_declares(entry):
    """Without the fields that it doesn't need, the scores are the same."""
    drawn = stats_of((4, 5), True, torch.ones)
    needed = {"weight", "generator", "channels", *entry["needs"]}
    bare = Stats(**{name: value for name, value in vars(drawn).items() if name in needed})
    assert torch.equal(entry(bare), entry(replace(stats_of((4, 5), True, torch.ones), generator=generator())))


@pytest.mark.parametrize("levels", [2, 3, 15, 255, 256])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("entry", list(mo.OBSERVERS.values()), ids=lambda e: e.name)
def test_observer(entry, shape, levels):
    for rows in (torch.randn(shape, generator=generator()), torch.zeros(shape), torch.full(shape, -3.0)):
        scale, zero_point = entry(rows, levels)
        assert scale.shape == zero_point.shape == (shape[0],)
        assert torch.isfinite(scale).all()
        assert (scale > 0).all()
        assert ((zero_point >= -1e-3) & (zero_point <= levels - 1 + 1e-3)).all()


@pytest.mark.parametrize("levels", [2, 3, 15, 256])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("entry", list(mo.ROUNDINGS.values()), ids=lambda e: e.name)
def test_rounding(entry, shape, levels):
    for weight in (torch.randn(shape, generator=generator()), torch.zeros(shape)):
        ones, inputs = torch.ones(shape[0], 1), torch.randn(3, shape[1], generator=generator())
        context = RoundingContext(weight, ones * 0.1, ones * (levels // 2), levels, generator(), silent, inputs)
        codes = entry(context)
        if entry["needs_data"]:
            with pytest.raises(mo.ModelOptError, match="no inputs were given; use 'nearest' without data"):
                entry(replace(context, inputs=None))
        assert codes.shape == weight.shape
        assert torch.equal(codes, codes.round())
        assert ((codes >= 0) & (codes <= levels - 1)).all()


@pytest.mark.parametrize("name", ["digits", "docstrings", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_workload(name):
    """Splits are disjoint, the task's shapes fit together, every baseline beats chance by far."""
    w = mo.workload(name)
    ids = [set(map(str, w.split(s).ids)) for s in ("train", "val", "test")]
    assert not (ids[0] & ids[1])
    assert not (ids[0] & ids[2])
    assert not (ids[1] & ids[2])
    assert all(len(w.split(s).ids) == len(w.split(s)) for s in ("train", "val", "test"))
    for model_name in w.models:
        said = mo.predictions(mo.baseline(name, model_name), w)
        n = len(w.val)
        assert said.scores.shape == said.confidence.shape == (n,)
        assert ((said.confidence >= 0) & (said.confidence <= 1)).all()
        assert said.scores.mean() > w.chance + 0.3
    shipped = {*w.models, *(model for task in w.subtasks for model in task.models)}
    assert shipped == {full.split("/")[1] for full in ZOO if full.startswith(f"{name}/")}
    varied, same = (w.augment(w.train.inputs[:5], generator(seed)) for seed in (1, 1))  # type: ignore[misc]
    assert varied.shape == w.train.inputs[:5].shape
    assert varied.dtype == w.train.inputs.dtype
    assert torch.equal(varied, same)
    assert not torch.equal(varied, w.train.inputs[:5])
    assert w.show is not None
    assert w.show("val", 0) is not None


def test_public_names_are_one_list(sources):
    """What type checkers are told is what is there, each from the room that the table names."""
    tree = sources["modelopt_core/__init__.py"]
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {a.name: node.module.removeprefix("modelopt_core.") for node in block.body for a in node.names}
    assert told.pop("channels") == "structure"
    assert told == mo._HOMES
    assert sorted(told) == mo.__all__
    assert all(getattr(mo, name) is not None for name in mo.__all__)
    with pytest.raises(AttributeError, match="modelopt_core has no 'Distil'; choose from"):
        mo.Distil  # noqa: B018
    for name in ("measure", "layers", "workload"):
        assert callable(getattr(mo, name)), "the function, not a module"


PROGRAM = """
import hashlib, torch, modelopt_core as mo
torch.set_num_threads(1)
w, model = mo.workload("digits"), mo.baseline("digits", "cnn")
recipe = (mo.Prune(ratio=0.3, criterion="random"), mo.Finetune(epochs=1), mo.Quantize(bits=4))
text = []
for _ in range(10):
    from modelopt_core.machine.cache import STORE
    STORE.clear()
    stages = mo.run(recipe, [model], w, seed=5)
    state = b"".join(t.numpy().tobytes() for t in stages[-1].model.state_dict().values())
    text.append(hashlib.sha256(state).hexdigest() + repr([s.measurement.score for s in stages]))
assert len(set(text)) == 1, text
print(text[0])
"""


def test_same_recipe_seed_and_threads_is_bit_identical_in_two_processes():
    """R12: 10 of 10 in each of two processes."""
    command = [sys.executable, "-c", PROGRAM]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S) for _ in "ab"]
    assert runs[0].stdout == runs[1].stdout != ""
