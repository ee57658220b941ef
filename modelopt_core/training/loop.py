"""The one training loop.

Everything random comes from one local generator, so a seed gives the same weights twice (dropout, which PyTorch draws
from the global state, is the exception; no architecture here has it). `val` chooses the epoch that is returned.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.machine.cores import pause
from modelopt_core.machine.digest import digest
from modelopt_core.machine.events import Keeper, Progress, Report, silent
from modelopt_core.models import identity
from modelopt_core.training import checkpoint
from modelopt_core.training.on_points import Settling, on_points, settled
from modelopt_core.workloads.workload import Augment, Split, Workload, shuffled_batches

OPTIMIZERS, SCHEDULES = ("adam", "sgd"), ("constant", "cosine")
EVALUATION_BATCH = 1000
ABSURD = 1e6  # times the first batch's loss: no training comes back from there
REPORT_EVERY_S = 0.5  # a person who waits sees something move


@dataclass(frozen=True, eq=False)
class Objective:
    """What a training minimises in place of the workload's own loss.

    loss: (model, inputs (b, *shape), targets (b, …), places (b,) of the batch in the train split) -> (). key: tells it
    from other objectives, for checkpoints. learned: what is trained along with the model and then forgotten.
    """

    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    key: str
    learned: nn.Module = field(default_factory=nn.Identity)


class TrainingError(ModelOptError):
    """Training broke down; `best` is the best model until then (at worst the one that came in)."""

    def __init__(self, text: str, best: nn.Module) -> None:
        super().__init__(text)
        self.best = best


def fit(
    model: nn.Module,
    workload: Workload,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 64,
    optimizer: Literal["adam", "sgd"] = "adam",
    schedule: Literal["cosine", "constant"] = "cosine",
    weight_decay: float = 0.0,
    augment: Augment | None = None,
    objective: Objective | None = None,
    keep_zeros: bool = False,
    patience: int | None = None,
    seed: int = 0,
    report: Report = silent,
) -> nn.Module:
    """A trained copy of `model` in eval mode: the epoch with the best val score, ties broken by val loss.

    The model as it came counts as epoch 0, so the val score never gets worse. optimizer: adam (weight decay decoupled,
    as in AdamW) or sgd (Nesterov momentum 0.9). schedule: of lr; cosine falls to zero. augment: (inputs (b, *shape),
    generator) -> (b, *shape). objective: None is the workload's loss. keep_zeros: weights that are exactly zero stay so
    (a pruned net stays pruned). patience: stop after so many epochs without a better one. report: a Keeper's checkpoint
    of this very training (the same model, settings, data_hash and objective's key) is where it goes on.
    A weight on a grid or codebook stays on its points, which learn too (on_points.py). What is frozen (requires_grad is
    False) stays and stays frozen; so do the averages of a norm whose weights and biases are all frozen.
    Raises TrainingError when the loss is no longer finite, or ABSURD; ModelOptError where nothing can be trained.
    """
    _check(epochs, lr, batch_size, optimizer, schedule)
    model = on_points(model)
    trained = nn.ModuleList([model, objective.learned]) if objective else model
    device = next(model.parameters()).device
    minimise = objective.loss if objective else partial(_own_loss, workload)
    train, val = (split.on(device) for split in (workload.train, workload.val))
    zeros = [(p, p == 0) for p in model.parameters() if p.dim() > 1] if keep_zeros else []
    update = _optimizer(optimizer, _free(trained, model), lr, weight_decay)
    generator = torch.Generator().manual_seed(seed)
    best, most = _Best(model, *evaluate(model, workload, val)), 0.0  # most: that the loss may be, after the first batch
    clock = _Clock(Settling(report), total=epochs * shuffled_batches(len(train), batch_size))
    if isinstance(report, Keeper):
        how = [epochs, lr, batch_size, optimizer, schedule, weight_decay, _named(augment), keep_zeros, patience, seed]
        how += [objective.key] if objective else []
        clock.training = digest(identity.key(model), workload.data_hash, *how)
        if saved := report.recall(clock.training):
            _unpack(saved, trained, update, generator, best, clock)

    for epoch in range(clock.epoch + 1, epochs + 1):
        if patience is not None and clock.epoch - best.epoch >= max(1, patience):
            break
        _train_mode(model)
        for at in train.places(batch_size, generator):
            pause()
            inputs = augment(train.take(at), generator) if augment else train.take(at)
            if schedule == "cosine":
                update.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * clock.step / clock.total)) / 2
            loss = _step(update, partial(minimise, model, inputs, train.targets[at], at))
            most = most or ABSURD * max(1.0, loss)
            if not math.isfinite(loss) or loss > most:
                text = f"loss is {loss:g} in epoch {epoch}; choose lr below {lr:g}"
                raise TrainingError(text, settled(best.restore(model)))
            for parameter, zero in zeros:
                parameter.data.masked_fill_(zero, 0.0)
            clock.tick(len(inputs), {"epoch": epoch, "loss": loss, "score": best.score})
        score, loss = evaluate(model, workload, val)
        better, clock.epoch = best.offer(model, score, loss, epoch), epoch
        clock.tell(
            {"epoch": epoch, "loss": loss, "score": score},
            best=best.copy if better else None,
            checkpoint=partial(_pack, trained, update, generator, best, clock),
        )
    return settled(best.restore(model))


def evaluate(model: nn.Module, workload: Workload, split: Split) -> tuple[float, float]:
    """(mean score, mean loss) of the model on a split, in eager PyTorch."""
    model.eval()
    score = loss = 0.0
    with torch.no_grad():
        for inputs, targets in split.batches(EVALUATION_BATCH):
            outputs = workload.forward(model, inputs)
            score += float(workload.example_scores(outputs, targets).mean()) * len(inputs)
            loss += float(workload.loss(outputs, targets)) * len(inputs)
    return score / len(split), loss / len(split)


class _Best:
    """The weights of the best epoch so far."""

    def __init__(self, model: nn.Module, score: float, loss: float) -> None:
        self.model = model
        self.score, self.loss, self.epoch = -1.0, math.inf, 0
        self.weights: dict[str, Tensor] = {}
        self.offer(model, score, loss, epoch=0)

    def offer(self, model: nn.Module, score: float, loss: float, epoch: int) -> bool:
        """Keep this epoch when it is better; a loss that is not finite never is, except at the beginning."""
        better = math.isfinite(loss) and (score, -loss) > (self.score, -self.loss)
        if better or not self.weights:
            self.score, self.loss, self.epoch = score, loss, epoch
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return better

    def copy(self) -> nn.Module:
        """A new model with the kept weights, in eval mode; the one in training goes on."""
        return self.restore(copy.deepcopy(self.model))

    def restore(self, model: nn.Module) -> nn.Module:
        """`model` with the kept weights, in eval mode."""
        model.load_state_dict(self.weights)
        model.zero_grad(set_to_none=True)
        return model.eval()


class _Clock:
    """Counts batches and epochs, and reports at least every REPORT_EVERY_S seconds."""

    def __init__(self, report: Report, total: int) -> None:
        self.report, self.total, self.step, self.epoch, self.last = report, total, 0, 0, time.monotonic()
        self.examples = 0  # since the last report
        self.training = ""

    def tick(self, examples: int, values: dict[str, float]) -> None:
        """One more batch, of so many examples."""
        self.step += 1
        self.examples += examples
        if time.monotonic() - self.last >= REPORT_EVERY_S:
            self.tell(values)

    def tell(self, values: dict[str, float], **more: Any) -> None:
        """Report now, with the speed since the last report."""
        now = time.monotonic()
        speed = {"examples_per_s": self.examples / max(now - self.last, 1e-6)}
        self.last, self.examples = now, 0
        self.report(Progress("train", self.step, self.total, {**values, **speed}, training=self.training, **more))
        self.last = time.monotonic()  # the report may have stood still


def _pack(
    model: nn.Module, update: torch.optim.Optimizer, generator: torch.Generator, best: _Best, clock: _Clock
) -> bytes:
    counted = [clock.epoch, clock.step, best.epoch, best.score, best.loss]
    return checkpoint.pack(model, update, generator, best.weights, counted)


def _unpack(
    data: bytes,
    model: nn.Module,
    update: torch.optim.Optimizer,
    generator: torch.Generator,
    best: _Best,
    clock: _Clock,
) -> None:
    best.weights, counted = checkpoint.unpack(data, model, update, generator)
    clock.epoch, clock.step, best.epoch = (int(number) for number in counted[:3])
    best.score, best.loss = counted[3:]


def _named(augment: Callable[..., Tensor] | None) -> str:
    """The same text for the same function in another process; one that hides values gets a text of its own."""
    if isinstance(augment, partial):
        return f"{_named(augment.func)}{augment.args}{sorted(augment.keywords.items())}"
    if isinstance(augment, FunctionType) and augment.__closure__ is None:
        return f"{augment.__module__}.{augment.__qualname__}"
    return repr(augment)


def _own_loss(workload: Workload, model: nn.Module, inputs: Tensor, targets: Tensor, _: Tensor) -> Tensor:
    """The workload's loss of a batch, without an objective."""
    return workload.loss(workload.forward(model, inputs), targets)


def _step(update: torch.optim.Optimizer, minimise: Callable[[], Tensor]) -> float:
    """One gradient step; returns the loss before it. A loss that is not finite changes nothing."""
    with torch.enable_grad():
        try:
            loss = minimise()
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ModelOptError(
                "a batch norm learns from 2 examples or more at a time; choose a larger batch"
            ) from None
        value = float(loss.detach())
        if math.isfinite(value):
            update.zero_grad(set_to_none=True)
            loss.backward()
            update.step()
    return value


def _free(trained: nn.Module, model: nn.Module) -> list[nn.Parameter]:
    """What may learn; ModelOptError where all of the model is frozen."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelOptError(
            f"every weight of {type(model).__name__} is frozen, and nothing is left to train; free some of them with "
            "requires_grad_(True)"
        )
    return [parameter for parameter in trained.parameters() if parameter.requires_grad]


def _train_mode(model: nn.Module) -> None:
    """Train mode, but for frozen norms: their averages stay, and they normalise by them."""
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if isinstance(module, _NormBase) and own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def _optimizer(name: str, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def _check(epochs: int, lr: float, batch_size: int, optimizer: str, schedule: str) -> None:
    if optimizer not in OPTIMIZERS:
        raise unknown("optimizer", optimizer, OPTIMIZERS)
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    if epochs < 0:
        raise ModelOptError(f"epochs={epochs} is not allowed; choose 0 or more")
    if not 0 < lr < math.inf:
        raise ModelOptError(f"lr={lr} is not allowed; choose a finite number above 0, such as 0.001")
    if batch_size < 1:
        raise ModelOptError(f"batch_size={batch_size} is not allowed; choose 1 or more")
