"""No public call changes the model that it is given: parameters, buffers, modes, what is frozen, attributes, hooks."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import modelopt_core as mo
from modelopt_core.models.contents import told
from modelopt_core.studies import jobs

Call = Callable[[nn.Module, "mo.Workload"], object]
STEP = mo.Prune(ratio=0.3, granularity="weight")
CALLS: dict[str, Call] = {
    "Prune": lambda m, w: STEP.apply(m, w),
    "Prune channels": lambda m, w: mo.Prune(ratio=0.3, granularity="channel").apply(m, w),
    "Quantize": lambda m, w: mo.Quantize(bits=4, rounding="gptq").apply(m, w),
    "Distill": lambda m, w: mo.Distill(epochs=1, batch_size=512, student="mlp").apply(m, w),
    "Finetune": lambda m, w: mo.Finetune(epochs=1, batch_size=512).apply(m, w),
    "Ensemble": lambda m, w: mo.Ensemble().apply([m, m], w),
    "Cascade": lambda m, w: mo.Cascade(calibrate=True).apply([m, m], w),
    "Fuse": lambda m, w: mo.Fuse().apply([m, m], w),
    "Fuse outputs": lambda m, w: mo.Fuse(of="outputs", strengths=(1.0,)).apply([m, m], w),
    "Fuse features": lambda m, w: mo.Fuse(of="features", strengths=(1.0,)).apply([m, m], w),
    "Pipeline": lambda m, w: mo.Pipeline().apply([m, m], w),
    "key": lambda m, w: STEP.key([m], w),
    "allocate": lambda m, w: mo.allocate(m, w, mo.Quantize(bits=8), tolerated_drop=1.0, tried=(4, 8)),
    "compare": lambda m, w: mo.compare(m, m, w),
    "compile": lambda m, w: mo.compile(m, w)(w.example),
    "curve": lambda m, w: next(mo.curve(STEP, "ratio", m, w, points=2)),
    "export_onnx": lambda m, w: mo.export_onnx(m, w, "x.onnx"),
    "export_safetensors": lambda m, w: mo.export_safetensors(m, "x.safetensors"),
    "gap": lambda m, w: mo.gap(mo.Distill(epochs=1, batch_size=512, student="mlp"), m, w, seeds=1),
    "layers": lambda m, w: mo.layers(m, w.example),
    "measure": lambda m, w: mo.measure(m, w),
    "measure eagerly": lambda m, w: mo.measure(m, w, runtime="eager"),
    "predictions": lambda m, w: mo.predictions(m, w),
    "run": lambda m, w: mo.run((STEP,), [m, m], w),
    "save": lambda m, w: mo.save(m, "x.mopt"),
    "sensitivity": lambda m, w: next(iter(mo.sensitivity(m, w, STEP))),
    "widths": lambda m, w: next(iter(mo.widths(m, w, mo.Quantize(), (8,)))),
    "a job's name": lambda m, w: jobs.named([m]),
}
# Public names whose calls are given no model.
MODELLESS = {"Recipe", "agreement", "baseline", "damaged", "from_json", "load", "part", "provenance", "scattered",
             "soften", "to_json", "workload"}  # fmt: skip


class Normed(nn.Module):
    """Linear, batch norm, linear; it keeps what it said last, as models under inspection do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.kept["hidden"] = self.norm(self.fc1(x.flatten(1))).relu()
        return self.fc2(self.kept["hidden"])


def state(model: nn.Module) -> str:
    """sha256 of all that there is."""
    text = [f"{place} {what}" for place, what in told(model)]
    text += [f"{name} {module.training}" for name, module in model.named_modules()]
    text += [f"{name} {p.grad is None}" for name, p in model.named_parameters()]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def given(kind: str) -> nn.Module:
    """A shipped network in train mode, part of it frozen and in eval mode; or a user's own."""
    torch.manual_seed(0)
    if kind == "own":
        return Normed().train()
    model = mo.baseline("digits", "cnn")
    if kind == "train":
        model.train()
        model.bn1.eval()
        model.conv1.weight.requires_grad_(False)
    return model


def test_every_public_call_is_here():
    functions = {name for name in mo.__all__ if callable(getattr(mo, name)) and not isinstance(getattr(mo, name), type)}
    assert functions - MODELLESS - CALLS.keys() == set()
    assert set(mo.STEPS) <= CALLS.keys()


@pytest.mark.parametrize("kind", ["eval", "train", "own"])
@pytest.mark.parametrize("name", CALLS)
def test_the_model_is_as_it_was(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    w, model = mo.workload("digits"), given(kind)
    before = state(model)
    try:
        CALLS[name](model, w)
    except mo.ModelOptError:
        assert kind == "own", "a shipped network can do all of it, whatever its modes"
        assert name == "save", "no other call needs a known architecture"
    assert state(model) == before


def test_what_is_measured_is_the_model_in_eval_mode():
    """Thirty calls leave no trace, and modes say nothing about answers."""
    w, model, calm = mo.workload("digits"), given("own"), given("own").eval()
    for runtime in ("onnx", "eager"):
        expected = mo.predictions(calm, w, runtime=runtime).outputs.logits
        for _ in range(15):
            mo.measure(model, w, runtime=runtime)
            assert torch.equal(mo.predictions(model, w, runtime=runtime).outputs.logits, expected)
