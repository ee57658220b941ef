"""What the command line prints and saves where that can't be: nobody reads on, no room, no such folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelopt_core import cli
from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic

WAIT_S = 120  # importing PyTorch on a busy machine
RECIPE = '{"steps": [{"step": "Prune"}]}'
FULL = Path("/dev/full")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.json"
    path.write_text(RECIPE, "utf-8")
    return str(path)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "modelopt_core.cli", *arguments]


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_a_reader_that_goes_away_ends_it_quietly(recipe: str, tmp_path: Path, both: bool, buffered: bool) -> None:
    """As `| head -1` does, before anything is written; and what was to be saved is saved."""
    reading, writing = os.pipe()
    os.close(reading)
    saved = tmp_path / "small.mopt"
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        command("run", recipe, "--json", *([] if both else ["--save", str(saved)])),
        stdout=writing, stderr=writing if both else subprocess.PIPE, env=environment, timeout=WAIT_S, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == cli.NOBODY_READS == 128 + 13
    if not both:
        assert all(line.startswith(b"recipe [") for line in done.stderr.splitlines()), done.stderr
        assert saved.is_file()


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["run", "RECIPE"], ["run", "RECIPE", "--json"], ["--version"]], ids=" ".join)
def test_no_room_for_the_output_is_one_sentence(recipe: str, arguments: list[str]) -> None:
    asked = [recipe if one == "RECIPE" else one for one in arguments]
    with FULL.open("wb") as full:
        done = subprocess.run(
            command(*asked), stdout=full, stderr=subprocess.PIPE, text=True, timeout=WAIT_S, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )  # fmt: skip
    assert done.returncode == cli.USER_ERROR
    told = [line for line in done.stderr.splitlines() if not line.startswith("recipe [")]
    assert told == ["modelopt: cannot write to stdout (No space left on device); send it where there is room"]


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import modelopt_core.steps.recipe

    def fail(*_: object, **__: object) -> None:
        pytest.fail("the recipe was run before the mistake was told")

    monkeypatch.setattr(modelopt_core.steps.recipe, "run", fail)
    monkeypatch.setattr("modelopt_core.steps.recipe.run", fail)


def sealed(tmp_path: Path) -> str:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "sealed").mkdir(mode=0o500)
    return str(tmp_path / "sealed" / "a.mopt")


def folder(tmp_path: Path) -> str:
    (tmp_path / "folder.mopt").mkdir()
    return str(tmp_path / "folder.mopt")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (lambda at: str(at / "none" / "a.mopt"), "No such file or directory"),
        (lambda at: str(at / "recipe.json" / "a.mopt"), "Not a directory"),
        (lambda at: str(at / f"{'a' * 300}.onnx"), "File name too long"),
        (folder, "Is a directory"),
        (sealed, "Permission denied"),
    ],
    ids=["no folder", "a file as folder", "long name", "a folder", "sealed"],
)
def test_where_nothing_can_be_saved_is_told_first(
    place: Callable[[Path], str], says: str, recipe: str, tmp_path: Path, nothing_runs: None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["run", recipe, "--save", path]) == cli.USER_ERROR
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"modelopt: cannot write {path!r} ({says}); choose a folder with room and write access\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_old_file_outlives_the_check(tmp_path: Path) -> None:
    path = tmp_path / "old.mopt"
    path.write_bytes(b"old")
    atomic.check(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ModelOptError, match=r"cannot write 'nul.*' \(embedded null byte|null"):
        atomic.check("nul\0.mopt")


def test_a_full_disk_is_told_and_so_is_what_was_measured(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    path = tmp_path / "a.mopt"
    assert cli.main(["run", recipe, "--json", "--save", str(path)]) == cli.USER_ERROR
    told = capsys.readouterr()
    assert json.loads(told.out)["stages"][-1]["label"] == "Prune(ratio=0.3)"
    assert f"modelopt: cannot write {str(path)!r} (No space left on device); choose a folder with room" in told.err
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.json"]
