"""The wheel as a user gets it: built, unpacked into an empty folder, and started from another one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import LIMIT_S, SOON_S, wait_until

TOP = {"modelopt_core", "modelopt_studio"}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(root)]
    done = subprocess.run(build, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("modelopt_studio-*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Every file in it."""
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel, without the libraries it needs: those of this environment serve."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, timeout=LIMIT_S)
    return target


@pytest.fixture
def elsewhere(installed: Path, tmp_path: Path) -> dict[str, object]:
    """Arguments for a subprocess that sees the installed wheel first, works in another folder and has an empty home."""
    paths = {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "PYTHONSAFEPATH": "1"}
    return {"cwd": tmp_path, "env": {**os.environ, **paths}}


def test_nothing_else_at_the_top(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == TOP


def test_app_pages_and_assets_are_inside(names: set[str], root: Path) -> None:
    """Every tracked file of the four places is in the wheel, under the one folder."""
    places = ("app.py", "pages", "assets", ".streamlit")
    git = ["git", "ls-files", *places]
    listed = subprocess.run(git, cwd=root, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    tracked = listed.stdout.split("\n")[:-1] if listed.returncode == 0 else ["app.py"]
    assert {f"modelopt_studio/{path}" for path in tracked} - names == set()
    for kind in ("pages/server/serve.py", ".js", ".css", ".safetensors", "assets/zoo/index.json"):
        assert any(name.endswith(kind) for name in names if name.startswith("modelopt_studio/")), kind


def test_no_litter_inside(names: set[str]) -> None:
    assert [n for n in names if "__pycache__" in n or "/tests/" in n or "/benchmarks/" in n or n.endswith(".pyc")] == []


def test_the_core_works_from_the_wheel(elsewhere: dict[str, object], installed: Path) -> None:
    code = """
import modelopt_core as mo, pathlib
print(pathlib.Path(mo.__file__).parent.parent)
w = mo.workload("digits")
print(mo.predictions(mo.baseline("digits", "cnn"), w).scores.mean().item() > 0.9)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, **elsewhere, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed), "True"]


@pytest.fixture
def served(elsewhere: dict[str, object]) -> Iterator[str]:
    """The address of the app, started from the wheel by the command that `modelopt` runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "modelopt_core.cli", "--port", str(port), "--no-browser"]
    process = subprocess.Popen(command, **elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=LIMIT_S)


def test_the_app_answers_from_another_folder(served: str) -> None:
    assert _get(f"{served}/_stcore/health") == (200, b"ok")
    status, page = _get(served)
    assert status == 200
    assert b"<html" in page


@pytest.mark.browser
def test_a_page_draws_from_another_folder(served: str, browser: Any) -> None:
    """Pages, component and weights are found in the wheel: the Prune page shows its Dial and no exception."""
    _get(f"{served}/_stcore/health")
    page = browser.new_page()
    page.goto(f"{served}/prune")
    page.locator("input[type=range]").first.wait_for()
    assert page.locator("[data-testid=stException]").count() == 0
    page.close()


def _get(address: str) -> tuple[int, bytes]:
    """Status and body, asked again until the server is up."""

    def answered() -> tuple[int, bytes] | None:
        try:
            with urllib.request.urlopen(address, timeout=SOON_S) as answer:
                return answer.status, answer.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    return wait_until(answered, f"an answer of {address}", every_s=0.1) or (0, b"")
