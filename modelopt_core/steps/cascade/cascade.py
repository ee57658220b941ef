"""The step and its modules: gates, each a model that also says how sure it is, and the cascade that stops at one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import onnx
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.digest import digest
from modelopt_core.machine.events import Report
from modelopt_core.measuring.measurement import predictions
from modelopt_core.models import identity
from modelopt_core.models.composite import COMPOSITES, Call, Composite, classes, compose
from modelopt_core.steps import checks
from modelopt_core.steps.base import STEPS, Combine, Knob, Named, When
from modelopt_core.steps.cascade.confidences import CONFIDENCES, stops
from modelopt_core.steps.cascade.exits import Exits, again, branched, fitted, settled
from modelopt_core.steps.cascade.joint import drawn, trained
from modelopt_core.steps.cascade.onnx_graph import staged
from modelopt_core.steps.cascade.split import chosen, places
from modelopt_core.tasks.calibration import fit_temperature, tempered
from modelopt_core.workloads.workload import Workload

TRAINED = range(1, 1001)  # epochs in which exits are

QUICK = 10_000  # examples of train: networks for so few are small


@COMPOSITES.register("gate")
class Gate(Composite):
    """One stage, one graph: inputs (b, *shape) -> (b, K + 1), log-probabilities and how sure they are.

    temperature: (), divides the logits first.
    """

    called = "Gate"
    temperature: Tensor

    def __init__(self, members: Sequence[nn.Module], confidence: str) -> None:
        super().__init__()
        self.confidence = CONFIDENCES[confidence].name
        self.members = nn.ModuleList(members)
        self.register_buffer("temperature", torch.ones(()))

    def answer(self, said: Tensor) -> Tensor:
        return self.passed(said[0])

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        """`answer` with one softmax fewer: for its temperature logits are as good as log-probabilities."""
        return self.passed(calls[0](inputs))

    def passed(self, logits: Tensor) -> Tensor:
        """What the model said, (b, K) up to a constant -> (b, K + 1)."""
        cooled = torch.log_softmax(logits / self.temperature, dim=-1)
        return torch.cat([cooled, CONFIDENCES[self.confidence](cooled)[:, None]], dim=-1)

    def extra_repr(self) -> str:
        """What a printed model says, and what makes it another model."""
        return f"confidence={self.confidence}"


@COMPOSITES.register("cascade")
class Staged(Composite):
    """Gates in order; an example leaves at the first that is sure enough. thresholds: (S − 1,), the last has none."""

    called = "Cascade"
    thresholds: Tensor

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("thresholds", torch.ones(len(members) - 1))

    @property
    def skips(self) -> bool:
        return True

    @property
    def has_graph(self) -> bool:
        return not any(gate.skips for gate in self.members)

    @property
    def parts(self) -> list[nn.Module]:
        """The models inside the gates."""
        return [gate.get_submodule("members.0") for gate in self.members]

    def gated(self, said: Tensor) -> Tensor:
        """What the models said, (S, B, K), as the gates pass it on: (S, B, K + 1)."""
        return torch.stack([gate.answer(one[None]) for gate, one in zip(self.members, said, strict=True)])  # type: ignore[operator]

    def answer(self, said: Tensor) -> Tensor:
        passed = self.gated(said)
        at = stops(passed[..., -1], self.thresholds)
        return passed[at, torch.arange(len(at)), :-1]

    def used(self, said: Tensor) -> Tensor:
        """(S, B): 1 for every stage up to the one where the example left."""
        at = stops(self.gated(said)[..., -1], self.thresholds)
        return (torch.arange(len(said))[:, None] <= at).float()

    def graph(self, members: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        return staged(members, self.thresholds.tolist())

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        """Every stage is asked about those examples only that no earlier one was sure of."""
        limits = self.thresholds.tolist()
        said = calls[0](inputs)  # (b, K + 1)
        if len(inputs) == 1:  # nothing to sort out
            at = 0
            while at < len(limits) and said.tolist()[0][-1] < limits[at]:
                at += 1
                said = calls[at](inputs)
            return said[:, :-1]
        waiting = torch.arange(len(inputs), device=said.device)
        for call, limit in zip(calls[1:], limits, strict=True):
            waiting = waiting[said[waiting, -1] < limit]
            if len(waiting) == 0:
                break
            said = said.index_put((waiting,), call(inputs[waiting]))
        return said[:, :-1]


@STEPS.register("Cascade")
class Cascade(Combine):
    """Ask the pool's models in order, the cheap one first; stop at the first that is sure. The rest does not run.

    Or one model in stages that share its work: exits on the way, to which heads are fitted or with which it is trained.

    Source: Viola and Jones, Rapid object detection using a boosted cascade of simple features, CVPR 2001;
    Teerapittayanon et al., BranchyNet, arXiv 1709.01686.
    """

    sentence: ClassVar[str] = "Ask the cheap model first, the dear one only in doubt. How sure is sure enough?"
    formula: ClassVar[str] = "stop where c(p) ≥ t"

    threshold: Annotated[float, Knob(0.0, 1.0, 0.01, "t")] = Field(
        0.9, ge=0, le=1, title="Threshold", description="How sure a stage must be for its answer to stand."
    )
    confidence: Annotated[str, Named(CONFIDENCES)] = Field(
        "max_prob", title="Confidence", description="How sure an answer is."
    )
    calibrate: bool = Field(
        False, title="Calibrate", description="Divide each stage's logits by a temperature fitted on val first."
    )
    thresholds: Annotated[tuple[float, ...], AfterValidator(checks.thresholds)] = Field(
        (), max_length=63, title="Thresholds", description="One per stage but the last, instead of one for all."
    )

    stages: Literal["models", "exits"] = Field(
        "models",
        title="Stages",
        description="The pool's models in their order, or exits from its last model: heads on hidden layers, fitted on "
        "train. They share that model's work.",
    )
    exits: Annotated[tuple[str, ...], When("stages", "exits")] = Field(
        (),
        max_length=16,
        title="Exits",
        description="Layers behind which the model can be left, or `inputs`; none: behind each where it saves work.",
    )
    epochs: Annotated[int, When("stages", "exits")] = Field(
        0,
        ge=0,
        le=TRAINED[-1],
        title="Epochs",
        description="Passes over train in which network and heads learn together; the last exit changes too. 0: the "
        "network stays, and linear heads are fitted to it.",
    )
    frozen: Annotated[bool, When("epochs", *TRAINED)] = Field(
        False, title="Heads only", description="The network stays, its last exit too: only the heads learn."
    )
    hidden: Annotated[int, When("epochs", *TRAINED)] = Field(
        64, ge=0, le=65536, title="Head", description="Units of a hidden layer in each head that is trained; 0: none."
    )
    lr: Annotated[float, When("epochs", *TRAINED)] = Field(
        1e-3, gt=0, le=1e9, title="Learning rate", description="First step size of a training; falls to zero."
    )

    def lasts(self, workload: Workload) -> bool:
        """Training does, and fitting heads to the wide layers that networks for much data have."""
        return self.stages == "exits" and (self.epochs > 0 or len(workload.train) > QUICK)

    def check(self, models: Sequence[nn.Module], workload: Workload) -> None:
        self.limits(self.ways(models, workload))

    @property
    def lasting(self) -> Cascade:
        """The making of exits; when an example leaves is decided afterwards."""
        if self.stages == "models":
            return self
        told = ("threshold", "thresholds", "confidence", "calibrate")
        return self.changed(**{name: type(self).model_fields[name].default for name in told})

    def limits(self, stages: int) -> tuple[float, ...]:
        """The thresholds of so many stages, (stages − 1,)."""
        if self.thresholds and len(self.thresholds) != stages - 1:
            what = f"the pool {stages} models" if self.stages == "models" else f"its model {stages} ways out"
            raise ModelOptError(
                f"Cascade has {len(self.thresholds)} thresholds, {what}; give {stages - 1}, one for every model but "
                "the last"
            )
        return self.thresholds or (self.threshold,) * (stages - 1)

    def offered(self, models: Sequence[nn.Module], workload: Workload) -> tuple[str, ...]:
        """What `exits` may name for these models: layers of the last, or `inputs`; its own where it has exits."""
        model = _last(models)
        return model.layers if isinstance(model, Exits) else tuple(p.layer for p in places(model, workload.example))

    def ways(self, models: Sequence[nn.Module], workload: Workload) -> int:
        """How many stages these models give: themselves, or the exits of the last and its end."""
        if self.stages == "models":
            return len(models)
        model = _last(models)
        if isinstance(model, Exits):
            return len(model.members)
        return len(chosen(places(model, workload.example), self.exits, model)) + 1

    def temperatures(self, models: Sequence[nn.Module], workload: Workload) -> tuple[float, ...]:
        """(S,): fitted on val, or 1."""
        if not self.calibrate:
            return (1.0,) * len(models)
        said = [predictions(model, workload).outputs.log_probabilities for model in models]
        return tuple(fit_temperature(one, workload.val.targets) for one in said)

    def sure(self, said: Tensor, temperatures: Sequence[float]) -> Tensor:
        """What the models said, log-probabilities (S, N, K) -> (S, N): how sure each is after its temperature."""
        pairs = zip(said, temperatures, strict=True)
        return torch.stack([CONFIDENCES[self.confidence](tempered(one, t)) for one, t in pairs])

    def combine(
        self, models: Sequence[nn.Module], workload: Workload, generator: torch.Generator, report: Report
    ) -> nn.Module:
        if self.stages == "exits":
            return self._left_early(models, workload, generator.initial_seed(), report)
        classes(models, workload.example, self.name)
        limits = self.limits(len(models))
        gates = [compose("gate", [model], confidence=self.confidence) for model in models]
        for gate, temperature in zip(gates, self.temperatures(models, workload), strict=True):
            gate.get_buffer("temperature").fill_(temperature)
        whole = compose("cascade", gates)
        whole.get_buffer("thresholds").copy_(torch.tensor(limits))
        return whole

    def _left_early(self, models: Sequence[nn.Module], workload: Workload, seed: int, report: Report) -> nn.Module:
        """Stages that share their work: exits from the last model."""
        model = _last(models)
        if self == self.lasting:
            whole = self._branched(model, workload, seed, report)
        else:
            found = self.lasting.apply(models, workload, seed=seed, report=report)
            assert isinstance(found, Exits)
            whole = again(found, (), self.confidence)
        made = (self.epochs, self.hidden, self.lr, self.frozen, seed) if self.epochs else ()
        key = digest(identity.key(model), workload.data_hash, *made)
        limits = self.limits(len(whole.members))
        return settled(whole, key, limits, self.temperatures(whole.parts, workload))

    def _branched(self, model: nn.Module, workload: Workload, seed: int, report: Report) -> Exits:
        """The network with heads, fitted or trained; a model that has exits keeps its own."""
        if isinstance(model, Exits):
            whole = again(model, self.exits, self.confidence)
        elif not self.epochs:
            return fitted(model, workload, self.exits, self.confidence)
        else:
            whole = drawn(branched(model, workload, self.exits, self.confidence, self.hidden), seed)
        if not self.epochs:
            return whole
        stays = self.frozen
        return trained(whole, workload, epochs=self.epochs, lr=self.lr, seed=seed, report=report, stays=stays)


def _last(models: Sequence[nn.Module]) -> nn.Module:
    """The model that exits are made in."""
    if not models:
        raise ModelOptError("Cascade needs a model to make exits in, the pool has none; add one to the pool")
    return models[-1]
