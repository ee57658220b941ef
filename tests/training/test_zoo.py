"""Shipped weights: what the index says is so, damage is named with its remedy, training again gives the same file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelopt_core.errors import DataMissing, ModelOptError
from modelopt_core.machine import folders
from modelopt_core.machine.folders import asset_path
from modelopt_core.models import identity
from modelopt_core.training import zoo
from modelopt_core.training.loop import evaluate
from modelopt_core.training.zoo import ZOO, baseline, train_zoo, zoo_index
from modelopt_core.workloads.workload import workload

MAX_ZOO_BYTES = 16_000_000
TARGETS = {"mnist/lenet300": 0.982, "mnist/lenet5": 0.991, "mnist/mlp1200": 0.988, "digits/cnn": 0.97}


@pytest.fixture
def copy_of_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's files as a user may damage them: tmp/assets/zoo."""
    shutil.copytree(asset_path("zoo"), tmp_path / "assets" / "zoo")
    monkeypatch.setattr(folders, "_BESIDE", tmp_path)
    monkeypatch.setattr(zoo, "_loaded", {})
    return tmp_path / "assets" / "zoo"


def reindex(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Store other tensors and make the index agree with them: a wrong file that is not damaged."""
    path = folder / f"{name.replace('/', '-')}.safetensors"
    save_file(tensors, path)
    index = json.loads((folder / "index.json").read_text())
    index[name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))


def test_the_index_lists_every_baseline_and_describes_its_file() -> None:
    index = zoo_index()
    assert index.keys() == ZOO.keys()
    for name, row in index.items():
        data = asset_path("zoo", f"{name.replace('/', '-')}.safetensors").read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["size_bytes"] == len(data)
        assert row["training"] == json.loads(json.dumps(asdict(ZOO[name])))
        assert row["test"] >= TARGETS.get(name, 0.6)
    assert sum(file.stat().st_size for file in asset_path("zoo").iterdir()) <= MAX_ZOO_BYTES


@pytest.mark.parametrize("name", ZOO)
def test_a_baseline_is_whole_and_is_what_its_spec_says(name: str) -> None:
    model = baseline(*name.split("/"))
    assert model.__dict__["spec"] == ZOO[name].spec
    assert sum(p.numel() for p in model.parameters()) == zoo_index()[name]["parameters"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert identity.key(model) == zoo_index()[name]["sha256"]
    assert model(ZOO[name].spec.example).shape[0] == 1


@pytest.mark.parametrize("name", [n for n in ZOO if n.startswith("digits")])
def test_digits_scores_are_those_of_the_index(name: str) -> None:
    digits, row = ZOO[name].data(workload("digits")), zoo_index()[name]
    assert row["data_hash"] == digits.data_hash
    for split in ("val", "test"):
        score, _ = evaluate(baseline(*name.split("/")), digits, digits.split(split))
        assert score == pytest.approx(
            row[split], abs=1.5 / len(digits.split(split))
        )  # one answer may turn on another CPU


@pytest.mark.parametrize("name", [n for n in ZOO if n.startswith("docstrings")])
def test_docstrings_are_told_apart_on_the_corpus_at_hand(name: str) -> None:
    data = ZOO[name].data(workload("docstrings"))
    score, _ = evaluate(baseline(*name.split("/")), data, data.test)
    assert 1 - score < 0.65 * (1 - data.chance)


@pytest.mark.mnist
@pytest.mark.parametrize("name", [n for n in ZOO if n.startswith("mnist")])
def test_mnist_scores_are_those_of_the_index(name: str) -> None:
    data, row = ZOO[name].data(workload("mnist")), zoo_index()[name]
    assert row["data_hash"] == data.data_hash
    assert evaluate(baseline(*name.split("/")), data, data.test)[0] == pytest.approx(row["test"], abs=3e-4)


def test_every_call_gives_a_fresh_copy_of_the_same_model() -> None:
    first = baseline("digits", "mlp")
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert identity.key(first) != identity.key(baseline("digits", "mlp")) == zoo_index()["digits/mlp"]["sha256"]


def test_training_again_gives_the_same_file_bit_for_bit(copy_of_zoo: Path) -> None:
    before = zoo_index()["digits/mlp"]
    path = copy_of_zoo / "digits-mlp.safetensors"
    path.unlink()
    with pytest.raises(DataMissing, match=r"digits-mlp.safetensors cannot be read .*`modelopt train-zoo digits/mlp`"):
        baseline("digits", "mlp")
    events: list[object] = []
    threads = torch.get_num_threads()
    assert train_zoo("digits/mlp", events.append) == path
    assert torch.get_num_threads() == threads
    assert events
    once = path.read_bytes()
    assert train_zoo("digits/mlp").read_bytes() == once
    row = zoo_index()["digits/mlp"]
    assert row["val"] == pytest.approx(before["val"], abs=0.02)
    assert {key: row[key] for key in ("training", "data_hash", "parameters")} == {
        key: before[key] for key in ("training", "data_hash", "parameters")
    }
    assert identity.key(baseline("digits", "mlp")) == row["sha256"]
    assert zoo_index().keys() == ZOO.keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("digit", "cnn"),
            r"unknown workload 'digit' \(did you mean 'digits'\?\); choose from digits, doc",
        ),
        (("digits", "lenet5"), "unknown digits model 'lenet5'; choose from cnn, cnn-2, expert-1, "),
        (("mnist", ""), "unknown mnist model ''; choose from article, expert-1, "),
    ],
)
def test_unknown_names_list_the_known_ones(given: tuple[str, str], message: str) -> None:
    with pytest.raises(ModelOptError, match=message):
        baseline(*given)
    with pytest.raises(ModelOptError, match=message):
        train_zoo("/".join(given))


@pytest.mark.parametrize("damage", ["one bit", "cut", "empty", "text"])
def test_a_damaged_file_is_named_with_its_remedy(copy_of_zoo: Path, damage: str) -> None:
    path = copy_of_zoo / "digits-cnn.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    content = {"one bit": bytes(data), "cut": bytes(data[:5000]), "empty": b"", "text": b"<html>not found</html>"}
    path.write_bytes(content[damage])
    with pytest.raises(DataMissing, match=r"digits-cnn.safetensors are damaged \(sha256 .*train-zoo digits/cnn`"):
        baseline("digits", "cnn")
    assert baseline("digits", "mlp") is not None


def test_a_file_that_is_no_safetensors_although_its_sha256_fits_is_named(copy_of_zoo: Path) -> None:
    path = copy_of_zoo / "digits-cnn.safetensors"
    path.write_bytes(b"{}")
    index = json.loads((copy_of_zoo / "index.json").read_text())
    index["digits/cnn"]["sha256"] = hashlib.sha256(b"{}").hexdigest()
    (copy_of_zoo / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataMissing, match=r"do not fit digits/cnn: .*run `modelopt train-zoo digits/cnn`"):
        baseline("digits", "cnn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc1.weight"), "tensor 'fc1.weight' is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor 'extra' is not part of the model"),
        (lambda t: t.update({"fc1.bias": torch.zeros(3)}), "tensor 'fc1.bias' has shape (3,), the model (64,)"),
        (lambda t: t.update({"fc1.bias": torch.zeros(64, dtype=torch.int64)}), "tensor 'fc1.bias' is torch.int64"),
        (lambda t: t.update({"fc1.bias": torch.zeros(64, dtype=torch.float64)}), "tensor 'fc1.bias' is torch.float64"),
        (lambda t: t["fc1.bias"].fill_(float("nan")), "tensor 'fc1.bias' holds values that are not finite"),
    ],
)
def test_a_wrong_tensor_is_named(copy_of_zoo: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    tensors = load_file(copy_of_zoo / "digits-mlp.safetensors")
    change(tensors)
    reindex(copy_of_zoo, "digits/mlp", tensors)
    with pytest.raises(DataMissing, match=re.escape(message)):
        baseline("digits", "mlp")


@pytest.mark.parametrize("content", ["", "[1, 2", "[1, 2]", "3", None])
def test_a_damaged_index_is_named(copy_of_zoo: Path, content: str | None) -> None:
    index = copy_of_zoo / "index.json"
    index.unlink()
    if content is not None:
        index.write_text(content)
    with pytest.raises(DataMissing, match=r"index.json cannot be read .*`modelopt train-zoo NAME`"):
        baseline("digits", "mlp")


@pytest.mark.parametrize("row", [None, {}, {"sha256": 3}])
def test_a_baseline_without_its_row_is_named(copy_of_zoo: Path, row: object) -> None:
    index = json.loads((copy_of_zoo / "index.json").read_text())
    (copy_of_zoo / "index.json").write_text(json.dumps({**index, "digits/mlp": row}))
    with pytest.raises(DataMissing, match=r"digits/mlp has no row in .*index.json; run `modelopt train-zoo"):
        baseline("digits", "mlp")


def test_assets_are_found_in_a_checkout_and_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_BESIDE", tmp_path)
    with pytest.raises(DataMissing, match=r"no assets/zoo beside .*pip install --force-reinstall modelopt-studio"):
        asset_path()
    (tmp_path / "modelopt_studio" / "assets" / "zoo").mkdir(parents=True)
    assert asset_path("zoo", "x") == tmp_path / "modelopt_studio" / "assets" / "zoo" / "x"
    (tmp_path / "assets" / "zoo").mkdir(parents=True)
    assert asset_path() == tmp_path / "assets"
