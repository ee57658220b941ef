"""`modelopt run --save`: what a recipe made, kept in three kinds of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file

import modelopt_core
from modelopt_core import cli
from tests.test_cli import RECIPE, recipe

__all__ = ["recipe"]  # a fixture


def test_run_saves_the_last_model(
    recipe: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three kinds of file of the same weights; the compact one knows recipe, score and seed."""
    paths = [tmp_path / f"small{kind}" for kind in cli.FILES]
    asked = ["run", recipe(RECIPE), "--model", "cnn", "--seed", "3", *(f"--save={path}" for path in paths)]
    assert cli.main(asked) == 0
    small, weights = modelopt_core.load(paths[0]), load_file(paths[2])
    assert all(torch.equal(weights[name], tensor) for name, tensor in small.state_dict().items())
    onnx.checker.check_model(onnx.load(str(paths[1])))
    assert small.note["recipe"][0]["ratio"] == 0.5
    assert (small.note["seed"], small.note["model"], small.note["score"]["n"]) == (3, ["cnn"], 360)
    assert f"{small.note['score']['value']:.2%}" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--save", "small.pt"], "--save small.pt: the name must end in .mopt, .onnx, .safetensors"),
        (["--save", "a.mopt", "--model", "mlp"], "--save writes one model, and the recipe leaves several"),
    ],
)
def test_what_cannot_be_saved_is_said_first(
    recipe: Callable[[str], str], more: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", recipe(RECIPE), "--model", "cnn", *more]) == cli.USER_ERROR
    assert error in capsys.readouterr().err
