"""Gates by hand: what a temperature does, and who is just sure enough."""

import math

import pytest
import torch
from torch import Tensor, nn

from modelopt_core.steps.cascade.cascade import Gate, Staged


def gate(temperature: float, confidence: str = "max_prob") -> Gate:
    """A gate around a model that says what it is given."""
    made = Gate([nn.Identity()], confidence)
    made.temperature.fill_(temperature)
    return made


def test_a_gate_cools_its_model_by_hand():
    """ln 9 against 0 is 0.9 to 0.1; at a temperature of 2 it is ln 3 against 0, 0.75 to 0.25, and 0.75 sure."""
    logits = torch.tensor([[math.log(9), 0.0]])
    for temperature, sure in ((1.0, 0.9), (2.0, 0.75)):
        found = gate(temperature)
        expected = torch.tensor([[math.log(sure), math.log(1 - sure), sure]])
        torch.testing.assert_close(found(logits), expected)
        torch.testing.assert_close(found.answer(logits.log_softmax(1)[None]), expected)


def test_as_sure_as_the_threshold_is_sure_enough():
    """Confidences of ½, a little more and a little less: the first two stay with the first stage, alone as together."""
    whole = Staged([gate(1.0), gate(1.0)])
    whole.thresholds.fill_(0.5)
    asked: list[int] = []

    def first(inputs: Tensor) -> Tensor:
        return torch.cat([torch.zeros(len(inputs), 2), inputs], dim=1)

    def second(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return torch.ones(len(inputs), 3)

    inputs = torch.tensor([[0.5], [0.5000001], [0.4999999]])
    assert whole.run([first, second], inputs).tolist() == [[0, 0], [0, 0], [1, 1]]
    assert asked == [1]
    assert [whole.run([first, second], one)[0, 0].item() for one in inputs.split(1)] == [0, 0, 1]


@pytest.mark.parametrize("confidence", ["max_prob", "margin", "entropy"])
def test_what_has_run_is_what_was_needed(confidence):
    """Three examples, sure of 1, 0.6 and 0.5 at the first stage: at 0.55 in max_prob the last goes on."""
    whole = Staged([gate(1.0, confidence), gate(1.0, confidence)])
    p = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.5, 0.5]]).clamp(1e-9, 1)
    whole.thresholds.fill_({"max_prob": 0.55, "margin": 0.1, "entropy": 0.02}[confidence])
    said = torch.stack([p, p]).log()
    assert whole.used(said).tolist() == [[1, 1, 1], [0, 0, 1]]
