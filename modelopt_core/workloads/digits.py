"""Handwritten digits, 8×8, inside scikit-learn: the workload that needs no download."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from modelopt_core.workload import WORKLOADS, Classification, Split

INK = 16  # the darkest grey in the file


@WORKLOADS.register("digits")
def digits(seed: int = 0) -> Classification:
    """1,797 images (1, 8, 8) of ten digits, in [0, 1]; 60/20/20 per cent, stratified, drawn by `seed`.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part, in scikit-learn).
    """
    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) in 0 … 16, (1797,)
    fit, rest = train_test_split(np.arange(len(labels)), train_size=0.6, stratify=labels, random_state=seed)
    val, test = train_test_split(rest, train_size=0.5, stratify=labels[rest], random_state=seed)

    inputs = torch.tensor(pixels / INK, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels, dtype=torch.int64)
    order = {"train": np.sort(fit), "val": np.sort(val), "test": np.sort(test)}
    splits = {name: Split(inputs[at], targets[at], tuple(f"digits/{i}" for i in at)) for name, at in order.items()}
    digest = hashlib.sha256(pixels.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes())
    for at in order.values():
        digest.update(at.astype("<i8").tobytes())
    return Classification(
        name="digits",
        title="Digits",
        modality="image",
        metric="accuracy",
        labels=tuple("0123456789"),
        **splits,
        models=("cnn", "mlp"),
        chance=float(np.bincount(labels[order["val"]]).max() / len(order["val"])),
        data_hash=digest.hexdigest(),
        note="1,797 handwritten digits of 8×8 pixels, part of scikit-learn.",
        show=lambda split, i: splits[split].inputs[i, 0].numpy(),
    )
