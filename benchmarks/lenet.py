"""LeNet-5 on MNIST in one small file: the recipe in recipes/lenet5.json from five seeds, and the front beyond it.

    python -m benchmarks.size lenet5            every point and seed that results/size.json does not have yet
    python -m benchmarks.size lenet5 --seed 0   of one seed only

recipes/lenet5-small.json prunes that network further, and the front goes on until it breaks. Val chose the epochs in
every training; test is looked at once, with the file that was written and loaded again. A finished step is kept in the
system's folder for temporary files, so that an interrupted run goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import modelopt_core as mo
from benchmarks import front
from benchmarks.machine import machine
from modelopt_core.files import mopt
from modelopt_core.machine import atomic
from modelopt_core.models import identity
from modelopt_core.tasks.statistics import difference, mcnemar, wilson
from modelopt_core.training.loop import evaluate

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "size.json"
SEEDS = range(5)
# Havasi et al., Minimal Random Code Learning, arXiv 1810.00440, Table 1: bytes and test error in %
LITERATURE = (
    ("Deep Compression", 44_000, 0.8),
    ("Weightless", 4_520, 1.0),
    ("Bayesian Compression", 2_300, 1.0),
    ("MIRACLE", 3_030, 0.69),
    ("MIRACLE", 1_520, 0.96),
)
LAYERS = ("conv1", "conv2", "fc1", "fc2")
# Shares of each layer's weights that are gone, beyond the small recipe's own; the last are more than it bears.
SPARSER = ((0.55, 0.70, 0.930, 0.78), (0.65, 0.80, 0.955, 0.84), (0.75, 0.88, 0.973, 0.90))
UNTRAINED = 2 + len(SPARSER)
FIRST_SEEDS = 1  # so many seeds run the whole front; all run the two recipes


def recipe(point: int) -> mo.Recipe:
    """The recipe of a point: 0 is lenet5.json, 1 lenet5-small.json; 2 to 4 prune once more before they quantize.

    5 is 1 at 5 bits, with no training after it.
    """
    name = "lenet5-small.json" if point else "lenet5.json"
    steps = mo.from_json((HERE / "recipes" / name).read_text("utf-8"))
    if point < 2:
        return steps
    prune, quantize = steps[2:4]
    assert isinstance(prune, mo.Prune)
    assert isinstance(quantize, mo.Quantize)
    if point == UNTRAINED:
        return (*steps[:3], quantize.changed(bits=5))
    ratios = tuple(zip(LAYERS, SPARSER[point - 2], strict=True))
    return (*steps[:3], prune.changed(rounds=2, ratios=ratios), *steps[3:])


def made(steps: Sequence[mo.Step], seed: int) -> nn.Module:
    """The shipped LeNet-5 after the steps; those that were done before are loaded."""
    w, model = mo.workload("mnist"), mo.baseline("mnist", "lenet5")
    folder = Path(tempfile.gettempdir()) / "modelopt-size"
    folder.mkdir(exist_ok=True)
    for step in steps:
        assert isinstance(step, mo.Transform)
        key = step.key([model], w, seed)
        path = folder / f"{key}.mopt"
        if path.exists():
            model = identity.stamp(mo.load(path), key)
        else:
            model = step.apply(model, w, seed=seed)
            mo.save(model, path)
            print(f"seed {seed}: {step.label}: val error {100 - 100 * evaluate(model, w, w.val)[0]:.2f} %", flush=True)
    return model


def wrong(model: nn.Module, split: str) -> list[int]:
    """Indices of the examples that the model gets wrong, in PyTorch itself."""
    w = mo.workload("mnist")
    with torch.inference_mode():
        answers = torch.cat([w.decode(w.forward(model, x)) for x, _ in w.split(split).batches(1000)])
    return (answers != w.split(split).targets).nonzero().flatten().tolist()


def measured(model: nn.Module, point: int, seed: int) -> dict[str, Any]:
    """One row: the file of a point's model, its bytes (by the adaptive coder too), and what it gets wrong."""
    val = wrong(model, "val")
    score = asdict(wilson(len(mo.workload("mnist").val) - len(val), len(mo.workload("mnist").val), "simulated"))
    steps = json.loads(mo.to_json(recipe(point)))["steps"]
    note = {"recipe": steps, "score": {"metric": "accuracy", **score, "split": "val"}, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        sizes = []
        for adaptive in (False, True):
            path = mo.save(model, Path(folder) / "lenet5.mopt", note, adaptive=adaptive)
            sizes.append(path.stat().st_size)
        model = mo.load(path)
    return {"point": point, "seed": seed, "size_bytes": sizes[0], "adaptive_bytes": sizes[1],
            "parts": mopt.sizes(model).parts, "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
            "val_errors": len(val), "test_wrong": wrong(model, "test")}  # fmt: skip


def run(seeds: Sequence[int]) -> None:
    """Measure what is missing and keep it."""
    torch.set_num_threads(1)
    for seed in seeds:
        for point in range(UNTRAINED + 1) if seed < FIRST_SEEDS else (0, 1, UNTRAINED):
            if not any((row["point"], row["seed"]) == (point, seed) for row in rows()):
                keep(measured(made(recipe(point), seed), point, seed))


def rows() -> list[dict[str, Any]]:
    """What was measured so far."""
    return list(json.loads(RESULTS.read_text("utf-8"))["rows"]) if RESULTS.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Add a row to the results, with the machine that it comes from."""
    baseline = mo.baseline("mnist", "lenet5")
    found = {
        "machine": machine(),
        "float32_bytes": 4 * sum(p.numel() for p in baseline.parameters()),
        "baseline_test_wrong": wrong(baseline, "test"),
        "rows": sorted([*rows(), row], key=lambda row: (row["point"], row["seed"])),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    text = json.dumps(found).replace('{"point"', '\n{"point"') + "\n"  # a line per row
    atomic.write(RESULTS, text.encode())


def report() -> list[str]:
    """Markdown: the recipe from every seed against the baseline, and the front."""
    found = json.loads(RESULTS.read_text("utf-8"))
    before = _right(found["baseline_test_wrong"])
    lines = [
        found["machine"],
        "",
        f"Baseline: {100 * (1 - before.mean()):.2f} % test error, {found['float32_bytes']:,} bytes as float32.",
        "",
        "| point | seed | file, bytes | times smaller | adaptive | non-zero | val error | test error | won / lost, p |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in found["rows"]:
        after = _right(row["test_wrong"])
        flips = mcnemar(before, after)
        times = found["float32_bytes"] / row["size_bytes"]
        cells = [row["point"], row["seed"], f"{row['size_bytes']:,}", f"{times:.0f}"]
        cells += [f"{row['adaptive_bytes']:,}", f"{row['nonzero']:,}"]
        cells += [f"{row['val_errors'] / 100:.2f} %", f"{100 * (1 - after.mean()):.2f} %"]
        cells += [f"{flips.won} / {flips.lost}, {flips.p:.2g}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for point, name in enumerate(("lenet5.json", "lenet5-small.json")):  # points 0 and 1
        right = [_right(row["test_wrong"]) for row in found["rows"] if row["point"] == point]
        main = np.stack(right).mean(axis=0)
        change = difference(before, main)
        text = f"{name}, mean of {len(right)} seeds: {100 * (1 - main.mean()):.2f} % test error; the score changes by "
        text += f"{100 * change.value:+.2f} % [{100 * change.low:+.2f}, {100 * change.high:+.2f}], paired over images."
        lines += ["", text]
    return lines


NAMES = {0: "lenet5.json", 1: "lenet5-small.json", UNTRAINED: "lenet5-small.json at 5 bits"}


def chart() -> Path:
    """The front as a chart beside the results: test error over bytes, the published points and the baseline."""
    found = json.loads(RESULTS.read_text("utf-8"))
    ours = []
    for point in sorted({row["point"] for row in found["rows"]}):
        seeds = [row for row in found["rows"] if row["point"] == point]
        sizes, errors = [row["size_bytes"] for row in seeds], [len(row["test_wrong"]) / 100 for row in seeds]
        ours.append(front.Point(NAMES.get(point, "pruned further"), sizes, errors))
    text = front.svg(ours, LITERATURE, len(found["baseline_test_wrong"]) / 100)
    return atomic.write(RESULTS.with_suffix(".svg"), text.encode())


def _right(indices: Sequence[int]) -> NDArray[np.float64]:
    """(10,000,) 1.0 where the answer is right."""
    answers = np.ones(len(mo.workload("mnist").test))
    answers[list(indices)] = 0.0
    return answers
