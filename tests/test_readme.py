"""What the README shows works as it is printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modelopt_core import cli
from tests.waiting import LIMIT_S


@pytest.fixture(scope="module")
def blocks(root: Path) -> dict[str, list[str]]:
    """The fenced blocks of the README by language."""
    found: dict[str, list[str]] = {}
    for language, text in re.findall(r"```(\w+)\n(.*?)```", (root / "README.md").read_text("utf-8"), re.DOTALL):
        found.setdefault(language, []).append(text)
    return found


def test_the_python_runs(blocks: dict[str, list[str]], root: Path, tmp_path: Path) -> None:
    for text in blocks["python"]:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{text}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "small.mopt").stat().st_size > 0


def test_the_recipe_runs(
    blocks: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = blocks["json"]
    (tmp_path / "recipe.json").write_text(recipe, "utf-8")
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True)[1:] for text in blocks["bash"] for line in text.splitlines()]
    runs = [line for line in lines if line[:1] == ["run"]]
    assert runs
    for line in runs:
        assert cli.main(line) == 0
        assert len(capsys.readouterr().out.splitlines()) == 4  # header, baseline, two steps


def test_the_commands_exist(blocks: dict[str, list[str]]) -> None:
    lines = [shlex.split(line, comments=True) for text in blocks["bash"] for line in text.splitlines()]
    shown = [line[1:] for line in lines if line[:1] == ["modelopt"]]
    assert {line[0] for line in shown} == {"run", "fetch", "train-zoo"}
    for line in shown:
        assert callable(cli._parser().parse_args(line).command)
