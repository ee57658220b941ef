"""Distillation on MNIST, after Hinton, Vinyals and Dean, arXiv 1503.02531, sec. 3, and against a plain loop.

    python -m benchmarks.distill teacher    784-1200-1200-10 with dropout and 2-pixel jitter; kept in .cache
    python -m benchmarks.distill tune       learning rates of both students, chosen on val, the same budget for both
    python -m benchmarks.distill 0          students of seed 0, alone and with soft targets; then 1, 2, 3, 4
    python -m benchmarks.distill width 30   error against temperature for 30 units a layer; then 300, 800
    python -m benchmarks.distill small      300-100 with and without the teacher
    python -m benchmarks.distill loop       on digits: `kl` against a loop written from the paper
    python -m benchmarks.distill            the tables, from what was measured

Every call adds to results/distill.json and leaves what is there, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file, save_file
from scipy import stats as distributions
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.checkpoints import CACHE
from benchmarks.machine import machine
from modelopt_core import atomic
from modelopt_core.distill.gap import closed
from modelopt_core.distill.student import spec_for
from modelopt_core.estimate import mcnemar
from modelopt_core.models import build
from modelopt_core.train import Objective, evaluate, fit

RESULTS = Path(__file__).parent / "results" / "distill.json"
SEEDS, TESTED = 5, 10_000
DROPOUT = 0.5  # of hidden units
TEACHER = {"epochs": 12, "lr": 1e-3, "batch_size": 256}  # after the 12 epochs without dropout of the shipped mlp1200
STUDENT = {"width": 2 / 3, "temperature": 20.0, "alpha": 0.9, "epochs": 10, "batch_size": 128}  # 784-800-800-10
RATES, TUNING_EPOCHS, TUNING_SEED = (5e-4, 1e-3, 2e-3), 2, 100
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0)
LOOP_SEEDS = 5


def dropping_out(seed: int) -> Objective:
    """Cross-entropy with dropout after every ReLU; the masks come from a generator of its own, so a seed decides."""
    draw = torch.Generator().manual_seed(seed)

    def loss(model: nn.Module, x: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        for layer in model.children():
            x = layer(x)  # (B, units)
            if isinstance(layer, nn.ReLU):
                x = x * torch.empty_like(x).bernoulli_(1 - DROPOUT, generator=draw) / (1 - DROPOUT)
        return F.cross_entropy(x, targets)

    return Objective(loss, f"dropout {DROPOUT} {seed}")


def teacher() -> nn.Module:
    """The shipped mlp1200, which was trained with 2-pixel jitter, trained on with jitter and dropout."""
    model, path = mo.baseline("mnist", "mlp1200"), CACHE / "distill-teacher.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    w, start = mo.workload("mnist"), time.perf_counter()
    model = fit(model, w, **TEACHER, augment=jitter, objective=dropping_out(0), report=told)
    CACHE.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    keep("teacher", {**TEACHER, "dropout": DROPOUT, "wrong": wrong(model), "minutes": minutes(start)})
    return model


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Hinton's: up to two pixels in any direction."""
    from modelopt_core.augment import shift

    return shift(images, generator, pixels=2)


def told(event: object) -> None:
    """Progress on the screen, once an epoch."""
    if isinstance(event, mo.Progress) and event.best is not None:
        print(f"  {event.step:,} of {event.total:,} {dict(event.values)}", flush=True)


def wrong(model: nn.Module) -> list[int]:
    """Which of the 10,000 test images the model gets wrong."""
    scores = mo.predictions(model, mo.workload("mnist"), "test").scores
    return [int(i) for i in (scores == 0).nonzero().flatten()]


def students() -> dict[str, mo.Distill]:
    """Both students, each with the learning rate that its tuning chose."""
    rates = {name: max(found, key=found.get) for name, found in read()["tuning"]["val"].items()}  # type: ignore[arg-type]
    step = mo.Distill(**STUDENT)
    both = {"alone": step.alone, "distilled": step}
    return {name: each.changed(lr=float(rates[name])) for name, each in both.items()}


def tune() -> None:
    """Val scores of short trainings at the same learning rates for both students."""
    w, model, start, found = mo.workload("mnist"), teacher(), time.perf_counter(), {}
    step = mo.Distill(**STUDENT).changed(epochs=TUNING_EPOCHS)
    for name, each in (("alone", step.alone), ("distilled", step)):
        trained = {lr: each.changed(lr=lr).apply(model, w, seed=TUNING_SEED) for lr in RATES}
        found[name] = {f"{lr:g}": evaluate(student, w, w.val)[0] for lr, student in trained.items()}
    keep("tuning", {"epochs": TUNING_EPOCHS, "seed": TUNING_SEED, "val": found, "minutes": minutes(start)})


def one_seed(seed: int) -> None:
    """Both students of one seed: the same first weights, order, images and epochs."""
    w, model = mo.workload("mnist"), teacher()
    for name, step in students().items():
        if (key := f"seed {seed} {name}") not in read():
            start = time.perf_counter()
            student = step.apply(model, w, seed=seed, report=told)
            row = {"step": step.model_dump(mode="json"), "wrong": wrong(student), "minutes": minutes(start)}
            keep(key, row)
            print(f"{key}: {len(row['wrong'])} errors", flush=True)


def width(units: int) -> None:
    """Students of `units` a layer without a teacher and at every temperature, seed 0; the rates chosen above."""
    w, model = mo.workload("mnist"), teacher()
    alone, distilled = students().values()
    narrow = {"width": units / 1200}
    steps = {"alone": alone.changed(**narrow)}
    steps |= {f"T {t:g}": distilled.changed(temperature=t, **narrow) for t in TEMPERATURES}
    for name, step in steps.items():
        if (key := f"width {units} {name}") not in read():
            start = time.perf_counter()
            student = step.apply(model, w)
            keep(key, {"val": evaluate(student, w, w.val)[0], "wrong": wrong(student), "minutes": minutes(start)})


def small() -> None:
    """300-100, 4.8 times fewer weights than 800-800, without and with the teacher; seeds 0, 1, 2."""
    w, model = mo.workload("mnist"), teacher()
    for seed in range(3):
        for name, step in students().items():
            if (key := f"300-100 seed {seed} {name}") not in read():
                start = time.perf_counter()
                student = step.changed(student="lenet300", width=1.0, epochs=20).apply(model, w, seed=seed)
                keep(key, {"wrong": wrong(student), "minutes": minutes(start)})


def loop() -> None:
    """The gap closed on digits by `Distill` and by `plain`, from the same first weights and with the same budget."""
    w, model, step = mo.workload("digits"), mo.baseline("digits", "cnn"), mo.Distill()
    scores: dict[str, list[list[float]]] = {"alone": [], "kl": [], "loop": []}
    for seed in range(LOOP_SEEDS):
        made = {"alone": step.alone.apply(model, w, seed=seed), "kl": step.apply(model, w, seed=seed)}
        made["loop"] = plain(step, model, w, seed)
        for name, student in made.items():
            scores[name].append(mo.predictions(student, w, "test").scores.tolist())
    known = mo.predictions(model, w, "test").scores.double().numpy()
    rows = {name: np.array(found) for name, found in scores.items()}
    for name in ("kl", "loop"):
        found = closed(known, rows["alone"], rows[name])
        share = found.share and [found.share.value, found.share.low, found.share.high]
        keep(f"digits {name}", {"alone": found.alone, "distilled": found.distilled, "share": share})


def plain(step: mo.Distill, model: nn.Module, w: mo.Workload, seed: int) -> nn.Module:
    """Written from the paper: soft targets at T, the labels' cross-entropy beside them, Adam, the last epoch."""
    student = build(spec_for(step.student, step.width, model, w), seed).train()
    update, t = torch.optim.Adam(student.parameters(), step.lr), step.temperature
    generator = torch.Generator().manual_seed(seed)
    for _ in range(step.epochs):
        for x, y in w.train.batches(step.batch_size, generator):
            with torch.no_grad():
                target = torch.softmax(model(x) / t, dim=1)
            logits = student(x)
            soft = F.kl_div(torch.log_softmax(logits / t, dim=1), target, reduction="batchmean")
            loss = step.alpha * t**2 * soft + (1 - step.alpha) * F.cross_entropy(logits, y)
            update.zero_grad()
            loss.backward()
            update.step()
    return student.eval()


def read() -> dict[str, Any]:
    """What was measured so far."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def keep(name: str, row: dict[str, object]) -> None:
    """Add one row, with where and when it was measured."""
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "distill.lock"):  # several seeds may run at once
        rows = {**read(), name: {**row, "machine": machine()}}
        text = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(rows.items()))
        RESULTS.parent.mkdir(exist_ok=True)
        atomic.write(RESULTS, f"{{\n{text}\n}}\n".encode())


def minutes(start: float) -> float:
    """Since `start`, of the machine as it was, with whatever else ran on it."""
    return round((time.perf_counter() - start) / 60, 1)


def tables(rows: dict[str, Any]) -> Iterator[str]:
    """Markdown: errors on the 10,000 test images."""
    if "teacher" in rows:
        yield f"Teacher 784-1200-1200-10: {len(rows['teacher']['wrong'])} errors (the paper: 67)."
    seeds = [s for s in range(SEEDS) if f"seed {s} alone" in rows and f"seed {s} distilled" in rows]
    if seeds:
        yield from hinton(rows, seeds)
    for units in (30, 300, 800):
        cells = [rows.get(f"width {units} {name}") for name in ("alone", *(f"T {t:g}" for t in TEMPERATURES))]
        if any(cells):
            yield f"| {units} | " + " | ".join(str(len(c["wrong"])) if c else "" for c in cells) + " |"
    for name in ("alone", "distilled"):
        found = [len(row["wrong"]) for key, row in rows.items() if key.startswith("300-100") and key.endswith(name)]
        if found:
            yield f"300-100 {name}: {np.mean(found):.1f} errors over {len(found)} seeds {found}"
    for name in ("kl", "loop"):
        if row := rows.get(f"digits {name}"):
            share = "no clear gap" if row["share"] is None else "{:.0%} ({:.0%} to {:.0%})".format(*row["share"])
            yield f"digits, {name}: {np.mean(row['alone']):.3f} → {np.mean(row['distilled']):.3f}, gap closed {share}"


def hinton(rows: dict[str, Any], seeds: list[int]) -> Iterator[str]:
    """Both students seed by seed; then the mean difference over seeds, and over seeds and images."""
    yield "\n| seed | alone | distilled | won | lost | p (McNemar) |\n|--:|--:|--:|--:|--:|--:|"
    right = {name: np.ones((len(seeds), TESTED)) for name in ("alone", "distilled")}
    for i, seed in enumerate(seeds):
        for name, scores in right.items():
            scores[i, rows[f"seed {seed} {name}"]["wrong"]] = 0
        flips = mcnemar(right["alone"][i], right["distilled"][i])
        errors = [int(TESTED - scores[i].sum()) for scores in right.values()]
        yield f"| {seed} | {errors[0]} | {errors[1]} | {flips.won} | {flips.lost} | {flips.p:.2g} |"
    errors_of = {name: TESTED - scores.sum(axis=1) for name, scores in right.items()}
    known = np.ones(TESTED)
    known[rows["teacher"]["wrong"]] = 0
    found = closed(known, right["alone"], right["distilled"])
    fewer = errors_of["alone"] - errors_of["distilled"]
    yield f"\nMean errors: alone {errors_of['alone'].mean():.1f}, distilled {errors_of['distilled'].mean():.1f}."
    if len(seeds) > 1:
        test = distributions.ttest_rel(errors_of["alone"], errors_of["distilled"])
        low, high = test.confidence_interval(0.95)
        yield f"Fewer errors: {fewer.mean():.1f} ({low:.1f} to {high:.1f}, paired t over seeds, p = {test.pvalue:.2g})."
    gain = [TESTED * x for x in (found.gain.value, found.gain.low, found.gain.high)]
    yield "Over seeds and images: {:.1f} ({:.1f} to {:.1f}).".format(*gain)
    if found.share:
        yield f"Gap closed: {found.share.value:.0%} ({found.share.low:.0%} to {found.share.high:.0%})."


def main(words: list[str]) -> None:
    """One piece of work, or the tables."""
    torch.set_num_threads(1)
    works: dict[str, Callable[[], object]] = {"teacher": teacher, "tune": tune, "small": small, "loop": loop}
    match words:
        case []:
            print(f"{machine()}\n", *tables(read()), sep="\n")
        case [name] if name in works:
            works[name]()
        case [seed] if seed.isdigit():
            one_seed(int(seed))
        case ["width", units] if units.isdigit():
            width(int(units))
        case _:
            print(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
