"""torchvision imports beside this torch, and nothing is declared where its own operators are there."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from modelopt_core.machine import torchvision_cpu
from tests.waiting import LIMIT_S

IN_A_CHILD = """
import torch
from modelopt_core.machine.torchvision_cpu import _library, import_torchvision
torchvision = import_torchvision()
assert import_torchvision() is torchvision
from torchvision.datasets import MNIST
from torchvision.models import resnet18
from torchvision.transforms.v2 import Pad
assert resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
assert Pad(2)(torch.zeros(1, 3, 4, 4)).shape == (1, 3, 8, 8)
if _library:  # a declared schema has no kernel: calling it must fail, not answer
    try:
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except NotImplementedError:
        print("declared")
else:
    print("real")
"""


def test_datasets_models_and_transforms_work_in_a_fresh_process() -> None:
    child = subprocess.run([sys.executable, "-c", IN_A_CHILD], capture_output=True, text=True, timeout=LIMIT_S)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() in ("declared", "real")


def test_nothing_is_declared_where_torchvision_imports_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", whole)
    monkeypatch.setattr(torchvision_cpu, "_library", [])
    assert torchvision_cpu.import_torchvision() is whole
    assert torchvision_cpu._library == []


def test_another_error_of_the_import_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torchvision":
                raise RuntimeError("libsomething.so is missing")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(torchvision_cpu, "_library", [])
    with pytest.raises(RuntimeError, match="libsomething"):
        torchvision_cpu.import_torchvision()
    assert torch.library is not None
    assert torchvision_cpu._library == []
