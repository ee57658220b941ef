"""Handwritten digits, 8×8, inside scikit-learn: the workload that needs no download."""

from __future__ import annotations

import hashlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from modelopt_core.errors import DataMissing
from modelopt_core.workloads.augment import shift, speckle
from modelopt_core.workloads.subtask import Subtask, repairing, sorting
from modelopt_core.workloads.workload import WORKLOADS, Classification, Split

INK = 16  # the darkest grey in the file
LABELS = tuple("0123456789")
GROUPS = ((0, 4, 6, 8), (1, 2, 7), (3, 5, 9))  # what `cnn` confuses most on val, see `pipeline.confused`
READ = Subtask("digit", "answer", "image", "label", "Reads the digit, whichever it is.", models=("cnn",))


@WORKLOADS.register("digits")
def digits(seed: int = 0) -> Classification:
    """1,797 images (1, 8, 8) of ten digits, in [0, 1]; 60/20/20 per cent, stratified, drawn by `seed`.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part, in scikit-learn).
    """
    pixels, labels = read()
    order = stratified(labels, seed)
    inputs = torch.tensor(pixels / INK, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels, dtype=torch.int64)
    splits = {name: Split(inputs[at], targets[at], tuple(f"digits/{i}" for i in at)) for name, at in order.items()}
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes())
    for at in order.values():
        digest.update(at.astype("<i8").tobytes())
    return Classification(
        name="digits",
        title="Digits",
        modality="image",
        metric="accuracy",
        labels=LABELS,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        models=("cnn", "mlp", "cnn-2"),
        chance=float(np.bincount(labels[order["val"]]).max() / len(order["val"])),
        data_hash=digest.hexdigest(),
        augment=partial(shift, pixels=1),
        damage=speckle,
        subtasks=(
            *sorting("image", LABELS, GROUPS, "Sorts digits into groups that look alike."),
            *repairing("image"),
            READ,
        ),
        note="1,797 handwritten digits of 8×8 pixels, part of scikit-learn.",
        show=lambda split, i: splits[split].inputs[i, 0].numpy(),
    )


def read() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(pixels (1797, 64) in 0 … 16, labels (1797,)), the same as `sklearn.datasets.load_digits` returns.

    Read from scikit-learn's own file without importing scikit-learn: that alone takes a second of the app's start.
    """
    package = find_spec("sklearn")
    path = Path((package and package.origin) or "sklearn").parent / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise DataMissing(f"digits cannot be read from {path} ({error}); run `pip install scikit-learn`") from error
    return table[:, :-1], table[:, -1]


def stratified(labels: NDArray[np.uint8], seed: int) -> dict[str, NDArray[np.intp]]:
    """Sorted indices of train, val and test: 60, 20 and 20 per cent of every class, drawn by `seed`."""
    draw = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.intp]]] = {"train": [], "val": [], "test": []}
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        cuts = [round(0.6 * len(members)), round(0.8 * len(members))]
        for name, piece in zip(parts, np.split(members, cuts), strict=True):
            parts[name].append(piece)
    return {name: np.sort(np.concatenate(pieces)) for name, pieces in parts.items()}
