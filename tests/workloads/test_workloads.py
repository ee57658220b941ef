"""The three workloads: by hand first, then what every workload promises, then files that are absent or damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from modelopt_core import workloads  # noqa: F401  importing it registers them
from modelopt_core.errors import DataMissing
from modelopt_core.machine.events import Progress
from modelopt_core.training.zoo import ZOO
from modelopt_core.workloads import docstrings as text
from modelopt_core.workloads import mnist as images
from modelopt_core.workloads import subtask_data as subtasks
from modelopt_core.workloads.workload import SPLITS, WORKLOADS, Workload, workload
from tests.waiting import LIMIT_S

NAMES = [pytest.param(name, marks=pytest.mark.mnist) if name == "mnist" else name for name in WORKLOADS]


@pytest.mark.parametrize("name", NAMES)
def test_every_workload_keeps_its_promises(name: str) -> None:
    w = workload(name)
    assert (w.name, w.models) == (name, w.models)
    shipped = {*w.models, *(model for task in w.subtasks for model in task.models)}
    assert {f"{name}/{model}" for model in shipped} == {known for known in ZOO if known.startswith(f"{name}/")}
    parts = [w.split(s) for s in SPLITS]
    assert len(set().union(*(p.ids for p in parts))) == sum(len(p) for p in parts)
    for part in parts:
        assert len(part.inputs) == len(part.targets) == len(part.ids) > 100
        assert part.targets.unique().tolist() == list(range(len(w.labels)))
    assert w.chance == pytest.approx(float(torch.bincount(w.val.targets).max()) / len(w.val))
    assert re.fullmatch("[0-9a-f]{64}", w.data_hash)
    assert workload(name) is w
    assert w.show is not None
    shown = w.show("val", 3)
    if w.modality == "image":
        assert isinstance(shown, np.ndarray)
        assert shown.shape == tuple(w.example.shape[2:])
        assert (float(w.train.inputs.min()), float(w.train.inputs.max())) == (0.0, 1.0)
        assert torch.equal(torch.as_tensor(shown), w.val.inputs[3, 0])
    else:
        assert isinstance(shown, str)
        assert w.train.inputs.dtype == torch.int64


def test_digits_are_scikit_learns_scaled_and_split_60_20_20() -> None:
    w = workload("digits")
    assert [len(w.split(s)) for s in SPLITS] == [1078, 360, 359]
    raw = load_digits()
    for split in SPLITS:
        part = w.split(split)
        at = [int(str(i).removeprefix("digits/")) for i in part.ids]
        np.testing.assert_allclose(part.inputs[:, 0].numpy() * 16, raw.images[at], atol=1e-5)
        assert part.targets.tolist() == raw.target[at].tolist()
        share = torch.bincount(part.targets) / len(part)
        assert float(share.max() - share.min()) < 0.02  # stratified


def test_a_seed_draws_other_splits_of_digits() -> None:
    a, b = workload("digits", seed=0), workload("digits", seed=1)
    assert a.data_hash != b.data_hash
    assert set(a.test.ids) != set(b.test.ids)
    assert WORKLOADS["digits"](1).data_hash == b.data_hash


@pytest.mark.mnist
def test_mnist_keeps_its_test_images_and_draws_val_from_the_training_images() -> None:
    w = workload("mnist")
    assert [len(w.split(s)) for s in SPLITS] == [50_000, 10_000, 10_000]
    assert all(str(i).startswith("mnist/t10k/") for i in w.test.ids)
    assert all(str(i).startswith("mnist/train/") for i in w.val.ids)
    assert w.test.targets[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert w.example.shape == (1, 1, 28, 28)
    assert float(w.train.inputs.mean()) == pytest.approx(0.1307, abs=2e-4)


def test_absent_mnist_names_the_folder_and_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELOPT_DATA", str(tmp_path / "nothing"))
    with pytest.raises(DataMissing, match=r"MNIST is not in .*nothing .*run `modelopt fetch mnist`.*MODELOPT_DATA"):
        WORKLOADS["mnist"](0)


def test_damaged_mnist_is_told_from_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in images.MD5:
        (raw / name).write_bytes(b"\0" * 100)
    monkeypatch.setenv("MODELOPT_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match=r"train-images-idx3-ubyte is damaged \(100 bytes, wrong md5\)"):
        WORKLOADS["mnist"](0)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_users_data_folder(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELOPT_DATA", raising=False)
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    folder = {"linux": ".local/share", "darwin": "Library/Application Support", "win32": "AppData/Local"}[platform]
    assert images.data_folder() == tmp_path / folder / "modelopt-studio"


class Answer(io.BytesIO):
    """What a server sends."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Length": str(len(self.getvalue()))}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files by URL, served without a network; four small ones stand for MNIST."""
    content = {name: name.encode() * 5000 for name in images.MD5}
    monkeypatch.setattr(images, "MD5", {n: hashlib.md5(c).hexdigest() for n, c in content.items()})
    monkeypatch.setattr(images, "mirrors", lambda: ["first/", "second/"])
    files = {f"second/{name}.gz": gzip.compress(c, 0) for name, c in content.items()}

    def open_url(url: str, timeout: float) -> Answer:
        if url not in files:
            raise OSError("no such host")
        return Answer(files[url])

    monkeypatch.setattr(images.urllib.request, "urlopen", open_url)
    monkeypatch.setenv("MODELOPT_DATA", str(tmp_path))
    return files


def test_fetch_goes_to_the_next_mirror_and_shows_progress(server: dict[str, bytes], tmp_path: Path) -> None:
    events: list[Progress] = []
    assert images.fetch_mnist(events.append) == tmp_path  # type: ignore[arg-type]
    raw = tmp_path / "MNIST" / "raw"
    assert sorted(f.name for f in raw.iterdir()) == sorted(images.MD5)
    assert (raw / "t10k-labels-idx1-ubyte").read_bytes() == b"t10k-labels-idx1-ubyte" * 5000
    steps = [e.step for e in events if "train-images" in e.phase]
    assert len(steps) > 1
    assert steps[-1] == events[0].total == len(server["second/train-images-idx3-ubyte.gz"])
    server.clear()
    assert images.fetch_mnist() == tmp_path  # whole files are not fetched again


@pytest.mark.parametrize(
    "bad",
    [b"", b"<html>moved</html>", gzip.compress(b"other"), gzip.compress(b"x" * 99)[:-9]],
    ids=["empty", "page", "other", "cut"],
)
def test_fetch_never_keeps_wrong_bytes(server: dict[str, bytes], tmp_path: Path, bad: bytes) -> None:
    server["second/t10k-images-idx3-ubyte.gz"] = bad
    with pytest.raises(
        DataMissing, match=r"cannot fetch t10k-images-idx3-ubyte \(first/: no such host; second/: "
    ) as e:
        images.fetch_mnist()
    assert "\n" not in str(e.value)
    assert not list((tmp_path / "MNIST" / "raw").glob("*t10k-images*"))


def test_fetch_into_a_place_that_is_no_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODELOPT_DATA", str(tmp_path / "file"))
    with pytest.raises(DataMissing, match=r"cannot make the folder .*set MODELOPT_DATA to another"):
        images.fetch_mnist()


def test_mirrors_are_torchvisions() -> None:
    assert all(url.startswith("http") and url.endswith("/") for url in images.mirrors())


@pytest.mark.parametrize(
    ("given", "masked"),
    [
        ("Convert to a NumPy array.", "Convert to a █ array."),
        ("See pd.concat or np.stack", "See █.concat or █.stack"),
        ("PyTorch and torch.nn, scikit-learn's sklearn", "█ and █.nn, █'s █"),
        ("Input stops", "Input stops"),  # np and st inside a word stay
    ],
)
def test_names_are_blacked_out(given: str, masked: str) -> None:
    assert text.mask(given) == masked


def test_prose_ends_where_sections_begin() -> None:
    assert text.prose("Add two\nnumbers.\n\nSlowly.\n\nParameters\n----------\na : int") == "Add two numbers. Slowly."
    assert text.prose("Add.\n\nArgs:\n    a: one") == "Add."
    assert text.prose("Add.\n\n>>> add(1, 2)\n3") == "Add."


def test_tokens_are_stable_and_never_padding() -> None:
    assert text.tokens("The mean, the MEAN!") == text.tokens("the mean the mean")
    assert text.tokens("123456789 a") == (1 + 0xE8B7BE43 % 4095,)  # CRC-32 of "a"; digits are no words
    assert min(text.tokens(" ".join(chr(97 + i) * j for i in range(26) for j in (1, 2)))) >= 1
    assert len(text.tokens("word " * 100)) == text.LENGTH


def test_public_docstrings_are_found_in_a_source() -> None:
    source = '''"""Of the module."""
class Shown:
    """Of the class."""
    def method(self, how="left", *,
               axis=0) -> int:
        r"""Of the
        method."""
    def _hidden(self):
        """Not this."""
def nothing(): pass
async def last():

    """Of the last."""
    text = """not this"""
'''
    assert [found for _, found in text._documented(source)] == [
        "Of the class.", "Of the\nmethod.", "Of the last.",
    ]  # fmt: skip


def test_docstrings_are_masked_distinct_and_split_by_module() -> None:
    w: Workload = workload("docstrings")
    modules = [{str(i).rsplit(":", 1)[0] for i in w.split(s).ids} for s in SPLITS]
    assert not modules[0] & modules[1]
    assert not modules[0] & modules[2]
    assert not modules[1] & modules[2]
    for whole in (w, subtasks.part(w, "groups"), subtasks.part(w, "experts/1")):
        clusters, ids = whole.val.clusters, map(str, whole.val.ids)
        assert clusters is not None
        pairs = set(zip(clusters.tolist(), (name.rsplit(":", 1)[0] for name in ids), strict=True))
        assert len(pairs) == len({module for _, module in pairs}) == len({number for number, _ in pairs})
    rows = torch.cat([w.split(s).inputs for s in SPLITS])
    assert len(rows.unique(dim=0)) == len(rows)
    assert bool((rows[:, : text.MIN_WORDS] > 0).all())
    assert int(rows.max()) < text.VOCABULARY
    assert w.show is not None
    shown = " ".join(str(w.show("val", i)).lower() for i in range(len(w.val)))
    assert not [
        name for name in ("numpy", "pandas", "plotly", "pydantic", "sklearn", "streamlit", "torch") if name in shown
    ]
    assert w.chance < 0.35
    assert all(f"{label} " in w.note for label in w.labels)


def test_an_absent_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PACKAGES", {"left-pad": "left_pad_that_is_not_there"})
    with pytest.raises(DataMissing, match="source of left-pad is not installed; mend it: pip install"):
        text.docstrings(0)


def test_nothing_is_loaded_or_fetched_at_import() -> None:
    code = (
        "import sys, modelopt_core.workloads; from modelopt_core.workloads.workload import _loaded;"
        "print(len(_loaded), 'torchvision' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S)
    assert child.stdout.split() == ["0", "False"], child.stderr
