"""`kl` on digits against a loop written from the paper, with the same first weights, batches and learning rates."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import modelopt_core as mo
from benchmarks.distill.rows import keep
from modelopt_core.steps.distill.gap_closed import closed
from modelopt_core.steps.distill.student import spec_for
from modelopt_core.structure.build import build
from modelopt_core.training.loop import evaluate

LOOP_SEEDS = 20
KINDS = ("kl", "loop", "loop, best on val", "loop, least loss on val")


def loop() -> None:
    """The gap closed on digits by `Distill` and by `plain`, its last epoch and its best ones on val, seed by seed."""
    w, model, step = mo.workload("digits"), mo.baseline("digits", "cnn"), mo.Distill()
    scores: dict[str, list[list[float]]] = {name: [] for name in ("alone", *KINDS)}
    for seed in range(LOOP_SEEDS):
        made = {"alone": step.alone.apply(model, w, seed=seed), "kl": step.apply(model, w, seed=seed)}
        epochs = [copy.deepcopy(student) for student in plain(step, model, w, seed)]
        ranks = [(score, -loss) for score, loss in (evaluate(each, w, w.val) for each in epochs)]
        gains = [gain for _, gain in ranks]  # minus the loss
        chosen = (len(epochs) - 1, ranks.index(max(ranks)), gains.index(max(gains)))
        made |= {name: epochs[at] for name, at in zip(KINDS[1:], chosen, strict=True)}
        for name, student in made.items():
            scores[name].append(mo.predictions(student.eval(), w, "test").scores.tolist())
        print(seed, {name: np.mean(rows[-1]) for name, rows in scores.items()}, flush=True)
    known = mo.predictions(model, w, "test").scores.double().numpy()
    rows = {name: np.array(found) for name, found in scores.items()}
    for name in KINDS:
        found = closed(known, rows["alone"], rows[name])
        share = found.share and [found.share.value, found.share.low, found.share.high]
        keep(f"digits {name}", {"alone": found.alone, "distilled": found.distilled, "share": share})


def plain(step: mo.Distill, model: nn.Module, w: mo.Workload, seed: int) -> Iterator[nn.Module]:
    """Written from the paper: soft targets at T beside the labels' cross-entropy, Adam; the student after each epoch.

    First weights, order of the batches and the learning rate, which falls along a cosine, are those of `Distill`.
    """
    student = build(spec_for(step.student, step.width, model, w), seed)
    update, t = torch.optim.Adam(student.parameters(), step.lr), step.temperature
    steps = step.epochs * -(-len(w.train) // step.batch_size)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(update, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(step.epochs):
        student.train()
        for x, y in w.train.batches(step.batch_size, generator):
            with torch.no_grad():
                target = torch.softmax(model(x) / t, dim=1)
            logits = student(x)
            soft = F.kl_div(torch.log_softmax(logits / t, dim=1), target, reduction="batchmean")
            loss = step.alpha * t**2 * soft + (1 - step.alpha) * F.cross_entropy(logits, y)
            update.zero_grad()
            loss.backward()
            update.step()
            fall.step()
        yield student
