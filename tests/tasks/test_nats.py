"""Impossible classes, −∞: entropy and divergence against SciPy, and what is computed from such answers."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import entr, rel_entr, softmax, xlogy
from torch import nn

import modelopt_core as mo
from modelopt_core.steps.cascade import best_thresholds
from modelopt_core.steps.cascade.joint import joint_loss
from modelopt_core.steps.distill.softened import soften
from modelopt_core.steps.ensemble import best_weights, uncertainty
from modelopt_core.tasks import nats
from modelopt_core.tasks.calibration import calibrated, fit_temperature

P = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
Q = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.0, 0.5], [0.2, 0.3, 0.5]])


class Masked(nn.Module):
    """A user's own: a network that may not give one of its answers."""

    def __init__(self, net: nn.Module, impossible: int) -> None:
        super().__init__()
        self.net = net
        penalty = torch.zeros(10)
        penalty[impossible] = -torch.inf
        self.register_buffer("penalty", penalty)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + self.penalty


def masked(name: str, impossible: int = 9) -> nn.Module:
    return Masked(mo.baseline("digits", name), impossible).eval()


def test_entropy_is_scipys():
    assert nats.entropy(P.log()).tolist() == pytest.approx(entr(P.numpy()).sum(axis=1).tolist())


def test_divergence_and_cross_entropy_are_scipys():
    found, crossed = nats.divergence(P.log(), Q.log()), nats.cross_entropy(P.log(), Q.log())
    assert found.tolist() == pytest.approx(rel_entr(P.numpy(), Q.numpy()).sum(axis=1).tolist())
    assert crossed.tolist() == pytest.approx((-xlogy(P.numpy(), Q.numpy())).sum(axis=1).tolist())
    assert nats.divergence(Q.log(), P.log()).tolist() == [pytest.approx(found_back(0)), math.inf, 0]
    assert nats.cross_entropy(Q.log(), P.log())[1] == math.inf


def found_back(row: int) -> float:
    return float(rel_entr(Q.numpy()[row], P.numpy()[row]).sum())


def test_gradients_are_finite_on_either_side():
    """Where the student rules out nothing that the teacher does not."""
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    for of in (nats.divergence, nats.cross_entropy):
        (slope,) = torch.autograd.grad(of(P[:1].log(), logits.log_softmax(1)).sum(), logits)
        expected = softmax([1.0, 2.0]) - 0.5
        assert slope[0].tolist() == pytest.approx([*expected, 0.0])
    (slope,) = torch.autograd.grad(nats.entropy(logits.log_softmax(1)).sum(), logits)
    assert torch.isfinite(slope).all()


def test_exits_learn_from_what_rules_a_class_out():
    said = torch.stack([Q, Q, P])[:, :1].log()
    crossed = 2 * float((-xlogy(P.numpy(), Q.numpy()))[0].sum())
    assert float(joint_loss(said, torch.zeros(3))) == pytest.approx(crossed)


def drawn(n: int = 400, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n, k) that rule out the last class, and targets drawn from flatter ones."""
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, k, generator=draw)
    logits[:, -1] = -torch.inf
    return logits.log_softmax(1), torch.multinomial((logits / 2).softmax(1), 1, generator=draw)[:, 0]


def test_the_temperature_is_that_of_the_possible_classes():
    said, targets = drawn()
    found = fit_temperature(said, targets)

    def loss(t: float) -> float:
        p = softmax(said[:, :-1].double().numpy() / t, axis=1)
        return -float(np.log(p[np.arange(len(p)), targets]).mean())

    assert found == pytest.approx(minimize_scalar(loss, bounds=(0.02, 50), method="bounded").x, rel=1e-3)
    assert found == pytest.approx(fit_temperature(said[:, :-1], targets), rel=1e-6)
    assert all(math.isfinite(b.score + b.confidence) for b in calibrated(said, targets).after)


def test_examples_whose_truth_is_ruled_out_choose_no_temperature():
    said, targets = drawn()
    none = torch.full((7,), 4)
    assert fit_temperature(torch.cat([said, said[:7]]), torch.cat([targets, none])) == fit_temperature(said, targets)
    assert fit_temperature(said[:7], none) == 1


def test_softening_is_scipys():
    said, targets = drawn()
    found = soften(said, targets, 2.0)
    p = softmax(said.double().numpy() / 2, axis=1)
    np.testing.assert_allclose(found.probabilities.numpy(), p, atol=1e-6)
    assert found.entropy_bits == pytest.approx(float(entr(p).sum(axis=1).mean()) / math.log(2), rel=1e-5)
    assert torch.isfinite(found.alike).all()


def test_doubt_is_scipys():
    said = torch.stack([P, Q]).log()
    total, between = uncertainty(said, torch.tensor([0.5, 0.5]))
    whole = entr(0.5 * (P + Q).numpy()).sum(axis=1)
    assert total.tolist() == pytest.approx(whole.tolist(), abs=1e-6)
    shared = 0.5 * (entr(P.numpy()) + entr(Q.numpy())).sum(axis=1)
    assert between.tolist() == pytest.approx((whole - shared).tolist(), abs=1e-6)


@pytest.mark.parametrize("rule", [name for name, entry in mo.RULES.items() if entry["convex"]])
def test_weights_leave_who_rules_out_the_truth(rule):
    """The sharper member is better on nine of ten examples and finds the tenth impossible: one firm no is a veto."""
    sharp = torch.tensor([[0.9, 0.1, 0.0]] * 9 + [[1.0, 0.0, 0.0]]).log()
    fair = torch.tensor([[0.6, 0.3, 0.1]] * 10).log()
    targets = torch.tensor([0] * 9 + [2])
    found = best_weights(torch.stack([sharp, fair]), targets, rule)
    assert math.isfinite(found.loss)
    assert found.gap < 1e-3
    if rule == "geometric":
        assert found.weights == pytest.approx((0, 1), abs=1e-3)
    else:  # nine say 0.6 + 0.3 w, one 0.1 (1 − w): the best w, by SciPy
        best = minimize_scalar(lambda w: -9 * math.log(0.6 + 0.3 * w) - math.log(0.1 - 0.1 * w), bounds=(0, 0.999))
        assert found.weights[0] == pytest.approx(best.x, abs=1e-3)


def test_a_cascade_of_a_network_that_rules_a_class_out_stops():
    w = mo.workload("digits")
    pool = [masked("mlp"), mo.baseline("digits", "cnn")]
    step = mo.Cascade(threshold=0.5, confidence="entropy", calibrate=False)
    found = mo.predictions(step.apply(pool, w), w)
    first, last = (mo.predictions(m, w).outputs.log_probabilities.double().exp().numpy() for m in pool)
    sure = 1 - entr(first).sum(axis=1) / math.log(10) >= 0.5
    assert 0.5 < sure.mean() < 1
    expected = np.where(sure[:, None], first, last).argmax(axis=1)
    assert found.answers.tolist() == expected.tolist()
    said = torch.stack([mo.predictions(m, w).outputs.log_probabilities for m in pool])
    scores = (said.argmax(2) == w.val.targets).float()
    chosen = best_thresholds(step.sure(said, (1.0, 1.0)), scores, (1.0, 10.0), score=float(scores[1].mean()))
    assert chosen.cost < 11


@pytest.mark.parametrize("rule", list(mo.RULES))
def test_an_ensemble_of_networks_that_rule_classes_out(rule):
    w = mo.workload("digits")
    whole = mo.Ensemble(rule=rule).apply([masked("mlp"), masked("cnn", 3)], w)
    with torch.no_grad():
        assert torch.isfinite(whole(w.val.inputs)).all()
    assert 0.7 < mo.predictions(whole, w).scores.mean() < 1


def test_a_head_reads_networks_that_rule_classes_out():
    w = mo.workload("digits")
    whole = mo.Fuse(of="outputs", strengths=(0.1,)).apply([masked("mlp"), masked("cnn", 3)], w)
    assert torch.isfinite(whole.head.weight).all()
    assert mo.predictions(whole, w).scores.mean() > 0.9
    assert mo.measure(whole, w).score.how == "measured"


def test_agreement_of_a_network_that_rules_a_class_out():
    found = mo.agreement(masked("mlp"), mo.workload("digits"))
    assert 0 <= found.largest < 1e-4
    assert found.share.value == 1


@pytest.mark.parametrize("loss", ["kl", "mse_logits", "dkd"])
def test_a_teacher_that_rules_a_class_out_teaches(loss):
    w = mo.workload("digits")
    student = mo.Distill(student="mlp", loss=loss, alpha=0.5, epochs=1).apply(masked("cnn"), w)
    assert all(torch.isfinite(p).all() for p in student.parameters())


@pytest.mark.parametrize("impossible", [0, 3])
def test_a_pipeline_of_networks_that_rule_a_class_out(impossible):
    """What was said before is looked up by classes, also where the first example's are not all possible."""
    w = mo.workload("digits")
    pool = [masked("mlp", impossible), mo.baseline("digits", "cnn")]
    whole = mo.Pipeline(threshold=0.9).apply(pool, w)
    found = mo.predictions(whole, w).outputs.logits
    with torch.no_grad():
        torch.testing.assert_close(found, whole(w.val.inputs), atol=1e-3, rtol=1e-3)
    assert not found.isnan().any()
    assert mo.predictions(whole, w).scores.mean() > 0.85
