"""The paper's experiment: a teacher with dropout and jitter, students on the images as they are, alone and taught."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.checkpoints import CACHE
from benchmarks.distill.rows import keep, minutes, read
from modelopt_core.machine import atomic
from modelopt_core.training.loop import Objective, evaluate, fit
from modelopt_core.workloads.augment import shift
from modelopt_core.workloads.workload import Classification, Split

TEACHER = {"epochs": 60, "lr": 1e-3, "batch_size": 256}  # after the 12 epochs without dropout of the shipped mlp1200
STUDENT = {"width": 2 / 3, "temperature": 20.0, "alpha": 0.9, "epochs": 20, "batch_size": 256}  # 784-800-800-10
RATES, TUNING_EPOCHS, TUNING_SEED = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 6, 100
LONG_EPOCHS = 60
TEMPERATURES, WIDTH_EPOCHS = (1.0, 2.0, 4.0, 8.0, 20.0), 8


def dropping_out(seed: int) -> Objective:
    """Cross-entropy with half of the units after every ReLU dropped; which ones, a generator of its own decides.

    The products are bfloat16, twice as fast here; weights, gradients and the optimizer stay float32.
    """
    draw = np.random.default_rng(seed)

    def loss(model: nn.Module, x: Tensor, targets: Tensor, _: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            for layer in model.children():
                x = layer(x)  # (B, units)
                if isinstance(layer, nn.ReLU):
                    coins = np.unpackbits(draw.integers(0, 256, -(-x.numel() // 8), dtype=np.uint8), count=x.numel())
                    x = x * (2 * torch.from_numpy(coins).to(x.dtype).view_as(x))
        return F.cross_entropy(x.float(), targets)

    return Objective(loss, f"dropout {seed}")


@dataclass(frozen=True, eq=False)
class Mixed(Classification):
    """A workload whose networks are trained with products in bfloat16 and used in float32."""

    def forward(self, model: nn.Module, inputs: Tensor) -> mo.Outputs:
        """(b, *shape) -> Outputs of (b, K), in float32."""
        with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
            logits = model(inputs)
        return mo.Outputs(logits.float())


def images(val_too: bool) -> Mixed:
    """MNIST. val_too: train on all 60,000 images, as the paper does, when val has chosen what there is to choose."""
    w = mo.workload("mnist")
    if val_too:
        both = (torch.cat([w.train.inputs, w.val.inputs]), torch.cat([w.train.targets, w.val.targets]))
        w = replace(w, train=Split(*both, range(len(both[0]))), data_hash=f"{w.data_hash}+val")
    return Mixed(**{each.name: getattr(w, each.name) for each in fields(w)})


def teacher() -> nn.Module:
    """The shipped mlp1200, which was trained with 2-pixel jitter, trained on with jitter and dropout."""
    model, path = mo.baseline("mnist", "mlp1200"), CACHE / "distill-teacher.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model
    start = time.perf_counter()
    CACHE.mkdir(exist_ok=True)
    model = fit(model, images(val_too=True), **TEACHER, augment=jitter, objective=dropping_out(0), report=Kept())
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    keep("teacher", {**TEACHER, "dropout": 0.5, "wrong": wrong(model), "minutes": minutes(start)})
    return model


class Kept:
    """A report that shows each epoch and keeps every fifth, so that a training that was stopped goes on from there."""

    def __call__(self, event: object) -> None:
        if isinstance(event, mo.Progress) and event.checkpoint is not None:
            print(f"  {event.step:,} of {event.total:,} {dict(event.values)}", flush=True)
            if event.values["epoch"] % 5 == 0:
                atomic.write(self.path, event.checkpoint())

    def recall(self, training: str) -> bytes | None:
        """Its last checkpoint, where one was kept."""
        self.path = CACHE / f"distill-{training[:16]}.checkpoint"
        return self.path.read_bytes() if self.path.exists() else None


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Hinton's: up to two pixels in any direction."""
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
    """Both students, each with the learning rate that did best on val."""
    step, rows = mo.Distill(**STUDENT), read()
    found = {}
    for name, each in (("alone", step.alone), ("distilled", step)):
        val = {lr: rows[f"tuning {name} {lr:g}"]["val"] for lr in RATES}
        found[name] = each.changed(lr=max(val, key=val.__getitem__))
    return found


def tune() -> None:
    """Val scores at the same learning rates for both students, on 50,000 images, from a teacher that saw no others."""
    w, model = images(val_too=False), mo.baseline("mnist", "mlp1200")
    step = mo.Distill(**STUDENT).changed(epochs=TUNING_EPOCHS)
    for name, each in (("alone", step.alone), ("distilled", step)):
        for lr in RATES:
            if (key := f"tuning {name} {lr:g}") not in read():
                start = time.perf_counter()
                val, _ = evaluate(each.changed(lr=lr).apply(model, w, seed=TUNING_SEED), w, w.val)
                keep(key, {"epochs": TUNING_EPOCHS, "seed": TUNING_SEED, "val": val, "minutes": minutes(start)})
                print(f"{key}: {val:.4f}", flush=True)


def one_seed(seed: int) -> None:
    """Both students of one seed: the same first weights, order, images and epochs."""
    for name, step in students().items():
        trained(f"seed {seed} {name}", step, seed)


def width(units: int, seed: int = 0) -> None:
    """Students of `units` a layer without a teacher and at every temperature; the rates chosen above."""
    alone, distilled = students().values()
    narrow = {"width": units / 1200, "epochs": WIDTH_EPOCHS}
    steps = {"alone": alone.changed(**narrow)}
    steps |= {f"T {t:g}": distilled.changed(temperature=t, **narrow) for t in TEMPERATURES}
    for name, step in steps.items():
        trained(f"width {units} {name} seed {seed}", step, seed)


def long(seed: int) -> None:
    """The same students, trained three times as long: does the distilled one come nearer to the paper's 74 errors?"""
    for name, step in reversed(students().items()):
        trained(f"long seed {seed} {name}", step.changed(epochs=LONG_EPOCHS), seed)


def small(seed: int) -> None:
    """300-100, 4.8 times fewer weights than 800-800, without and with the teacher."""
    for name, step in students().items():
        trained(f"300-100 seed {seed} {name}", step.changed(student="lenet300", width=1.0), seed)


def trained(key: str, step: mo.Distill, seed: int) -> None:
    """One student's errors, if nobody has measured them."""
    if key in read():
        return
    model, start = teacher(), time.perf_counter()
    student = step.apply(model, images(val_too=True), seed=seed, report=told)
    row = {"step": step.model_dump(mode="json"), "wrong": wrong(student), "minutes": minutes(start)}
    keep(key, row)
    print(f"{key}: {len(row['wrong'])} errors", flush=True)
