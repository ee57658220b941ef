"""MNIST, 28×28: the data set of the compression literature. Found on disk, or fetched on request; never at import."""

from __future__ import annotations

import hashlib
import os
import urllib.request
import zlib
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from modelopt_core import atomic
from modelopt_core.assets import user_folder
from modelopt_core.augment import scatter, shift, speckle
from modelopt_core.errors import DataMissing
from modelopt_core.events import Progress, Report, silent
from modelopt_core.subtask import Subtask, locating, repairing, sorting
from modelopt_core.torchvision_cpu import import_torchvision
from modelopt_core.workload import WORKLOADS, Classification, Pixels, Split

MD5 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
IMAGE_HEADER, LABEL_HEADER = 16, 8  # bytes before the data of an idx file
LABELS = tuple("0123456789")
GROUPS = ((0, 6), (4, 7, 9), (1, 2, 3, 5, 8))  # what `mlp30` confuses most on val, see `pipeline.confused`
READ = Subtask("digit", "answer", "image", "label", "Reads the digit, whichever it is.", models=("article",))
VAL = 10_000  # of the 60,000 training images
CHUNK, LARGEST = 2**16, 47_040_016  # bytes read at a time; bytes of the largest file: a server that sends more is left
RAW = Path("MNIST", "raw")  # where torchvision keeps the files below its root
GZIP = 31  # zlib's number for "15 bits, with a gzip header"
TIMEOUT_S = 20


@WORKLOADS.register("mnist")
def mnist(seed: int = 0) -> Classification:
    """70,000 images (1, 28, 28) of ten digits, in [0, 1]; 50,000 train, 10,000 val drawn by `seed`, 10,000 test.

    Raises DataMissing when the files are absent or damaged.
    Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998.
    """
    root = data_folder()
    files = {name: _read(root, name) for name in MD5}
    order = np.random.default_rng(seed).permutation(60_000)
    splits = {
        "train": _split(files, "train", np.sort(order[VAL:])),
        "val": _split(files, "train", np.sort(order[:VAL])),
        "test": _split(files, "t10k", np.arange(10_000)),
    }
    return Classification(
        name="mnist",
        title="MNIST",
        modality="image",
        metric="accuracy",
        labels=LABELS,
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        models=(
            "lenet5",
            "lenet300",
            "article",
            "mlp1200",
            "mlp30",
            "lenet300-1",
            "lenet300-2",
            "lenet300-3",
            "lenet300-4",
        ),
        chance=float(torch.bincount(splits["val"].targets).max() / VAL),
        data_hash=hashlib.sha256(f"{sorted(MD5.items())}{VAL}{seed}".encode()).hexdigest(),
        augment=partial(shift, pixels=1),
        damage=speckle,
        scatter=scatter,
        subtasks=(
            *sorting("image", LABELS, GROUPS, "Sorts digits into groups that look alike."),
            *repairing("image"),
            locating("image"),
            READ,
        ),
        note="70,000 handwritten digits of 28×28 pixels; 10,000 of the training images serve as val.",
        show=lambda split, i: splits[split].take(i)[0].numpy(),
    )


def data_folder() -> Path:
    """The torchvision root that holds MNIST/raw: MODELOPT_DATA, else the user's own data folder."""
    if given := os.environ.get("MODELOPT_DATA"):
        return Path(given).expanduser()
    return user_folder()


def fetch_mnist(report: Report = silent) -> Path:
    """Download what is missing or damaged of the four files (12 MB) into `data_folder()`; returns that folder.

    A file appears whole or not at all. Raises DataMissing when no mirror answers with the right bytes.
    """
    root = data_folder()
    raw = root / RAW
    try:
        raw.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataMissing(f"cannot make the folder {raw} ({error.strerror}); set MODELOPT_DATA to another") from error
    for name, md5 in MD5.items():
        path = raw / name
        if not (path.is_file() and _md5(path.read_bytes()) == md5):
            atomic.write(path, _download(name, md5, report))
    return root


def mirrors() -> list[str]:
    """The servers that torchvision itself downloads MNIST from, each ending in a slash."""
    import_torchvision()
    from torchvision.datasets import MNIST  # takes 2 s to import, and only a download needs it

    return list(MNIST.mirrors)


def _download(name: str, md5: str, report: Report) -> bytes:
    """The uncompressed file from the first mirror that has it."""
    reasons = []
    for mirror in mirrors():
        try:
            raw, received, unpack = bytearray(), 0, zlib.decompressobj(wbits=GZIP)
            with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=TIMEOUT_S) as answer:
                total = int(answer.headers.get("Content-Length") or 0)
                while len(raw) <= LARGEST and (chunk := answer.read(CHUNK)):
                    raw += unpack.decompress(chunk)
                    received += len(chunk)
                    report(Progress(f"fetch {name}", received, max(total, received)))
        except (OSError, ValueError, HTTPException, zlib.error) as error:
            reasons.append(f"{mirror}: {error}")
            continue
        if _md5(raw) == md5:
            return bytes(raw)
        reasons.append(f"{mirror}: wrong md5")
    raise DataMissing(f"cannot fetch {name} ({'; '.join(reasons)}); try again with a network, or put the file there")


def _read(root: Path, name: str) -> np.ndarray:
    """The data bytes of one idx file, checked against its md5."""
    path = root / RAW / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataMissing(
            f"MNIST is not in {root} ({path.name}: {error.strerror}); run `modelopt fetch mnist`, "
            "or set MODELOPT_DATA to a torchvision root"
        ) from error
    if _md5(data) != MD5[name]:
        raise DataMissing(f"{path} is damaged ({len(data):,} bytes, wrong md5); run `modelopt fetch mnist`")
    return np.frombuffer(data, np.uint8, offset=IMAGE_HEADER if "images" in name else LABEL_HEADER)


def _split(files: dict[str, np.ndarray], part: str, at: np.ndarray) -> Split:
    images = files[f"{part}-images-idx3-ubyte"].reshape(-1, 1, 28, 28)[at]  # (n, 1, 28, 28) uint8
    labels = files[f"{part}-labels-idx1-ubyte"][at]
    ids = tuple(f"mnist/{part}/{i}" for i in at.tolist())
    return Pixels(torch.from_numpy(images), torch.from_numpy(labels).long(), ids)


def _md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
