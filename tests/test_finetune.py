"""Fine-tuning as a step: it mends what was broken, keeps zeros, and refuses settings that make no sense."""

from __future__ import annotations

import pytest
import torch

from modelopt_core import workloads  # noqa: F401  importing it registers them
from modelopt_core.errors import ModelOptError
from modelopt_core.events import Progress
from modelopt_core.finetune import Finetune
from modelopt_core.models import build
from modelopt_core.spec import Spec
from modelopt_core.train import evaluate
from modelopt_core.workload import Workload, workload
from modelopt_core.zoo import baseline


@pytest.fixture(scope="module")
def digits() -> Workload:
    return workload("digits")


def test_it_mends_a_pruned_network_and_the_network_stays_pruned(digits: Workload) -> None:
    broken = baseline("digits", "mlp")
    with torch.no_grad():
        for name, weight in broken.named_parameters():
            if name.endswith("weight"):
                weight[weight.abs() < weight.abs().quantile(0.85)] = 0
    mended = Finetune(epochs=5, lr=3e-3).apply(broken, digits)
    before, after = (evaluate(m, digits, digits.val)[0] for m in (broken, mended))
    assert after > before + 0.05
    for (name, old), new in zip(broken.named_parameters(), mended.parameters(), strict=True):
        if name.endswith("weight"):
            assert torch.equal(old == 0, new == 0)


def test_the_input_is_untouched_and_a_seed_decides(digits: Workload) -> None:
    model = build(Spec("cnn", (), (1, 8, 8)))
    before = [t.clone() for t in model.state_dict().values()]
    step = Finetune(epochs=1, lr=1e-2)
    zero, one = (step.apply(model, digits, seed=s) for s in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert not zero.training
    assert any(not torch.equal(a, b) for a, b in zip(zero.parameters(), one.parameters(), strict=True))


def test_it_reports_while_it_works(digits: Workload) -> None:
    events: list[Progress] = []
    step = Finetune(epochs=2, lr=1e-5, batch_size=100)
    step.apply(baseline("digits", "mlp"), digits, report=events.append)  # type: ignore[arg-type]
    assert events[-1].step == events[-1].total == 2 * 11  # 1,078 examples


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("epochs", 1.5), ("lr", 0), ("lr", float("nan")), ("batch_size", 0)]
)
def test_a_wrong_setting_is_named(field: str, value: float) -> None:
    with pytest.raises(ModelOptError, match=f"Finetune: {field}="):
        Finetune(**{field: value})
