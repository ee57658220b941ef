"""Several models as one: what every combined module is, whichever technique made it.

A composite knows two ways to its answer: `run` asks its members about inputs, as a file or a server would, and `answer`
computes the same from what the members have said before. The second makes sliders instant, the first is what is timed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx
import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.registry import Registry
from modelopt_core.models import sound
from modelopt_core.models.spec import Composition, spec_of
from modelopt_core.workloads.workload import Workload

Call = Callable[[Tensor], Tensor]  # inputs (b, *shape) -> logits (b, K): a module, or one that was compiled
COMPOSITES: Registry[Callable[..., Composite]] = Registry("composite")


class Composite(nn.Module):
    """A module made of `members`. called: the step that makes it, for people; fitted_on: the split that its own weights
    were fitted to, if they were.
    """

    called: ClassVar[str]
    fitted_on: ClassVar[str] = ""
    members: nn.ModuleList

    @property
    def skips(self) -> bool:
        """Do some inputs not need all of it? Then torch can't trace it; see `graph`."""
        return any(getattr(member, "skips", False) for member in self.members)

    @property
    def has_graph(self) -> bool:
        """Can `graph` say what one that skips does?"""
        return False

    @property
    def parts(self) -> list[nn.Module]:
        """The models whose log-probabilities `answer` wants, in order."""
        return list(self.members)

    @property
    def working(self) -> list[nn.Module]:
        """The models that `used` speaks of: the parts, unless several of those share a model."""
        return self.parts

    @property
    def arithmetic(self) -> bool:
        """Does `answer` say it all, so that predictions need not run the whole?"""
        return True

    @abstractmethod
    def answer(self, said: Tensor) -> Tensor:
        """What the parts said, log-probabilities (M, B, K) -> (B, K): the whole's log-probabilities.

        K is the most that a part has; where another has fewer classes, the rest is -inf.
        """

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        """inputs (b, *shape) -> log-probabilities (b, K). calls: the members, as modules or compiled."""
        return self.answer(torch.stack([torch.log_softmax(call(inputs), dim=-1) for call in calls]))

    def feeds(self, at: int, workload: Workload) -> Workload:
        """The workload as member `at` sees it: its train inputs are what that member takes."""
        return workload

    def taken(self, at: int, inputs: Tensor) -> Tensor:
        """What member `at` takes when all before it have run: inputs (b, *shape) -> (b, …)."""
        return inputs

    def used(self, said: Tensor) -> Tensor:
        """(M, B) in [0, 1]: which of `working` ran for which example, from what all parts would say, (M, B, K)."""
        return torch.ones(said.shape[:2])

    def graph(self, members: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        """One that skips and `has_graph`, as an ONNX graph made of its members' graphs.

        Inputs that the graph has beside the first are named as the buffers that fill them.
        """
        raise ModelOptError(f"{self.called} has no graph of its own")

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs (b, *shape) -> log-probabilities (b, K)."""
        return self.run(list(self.members), inputs)


def compose(kind: str, members: Sequence[nn.Module], **arguments: str | int) -> Composite:
    """The composite in eval mode; where every member has a spec, its own is noted, so that a file can make it again."""
    whole: Composite = COMPOSITES[kind](members, **arguments)
    specs = [spec_of(member) for member in members]
    if first := specs[0]:
        known = tuple(spec for spec in specs if spec)
        if len(known) == len(specs):
            told = tuple(sorted(arguments.items()))
            whole.__dict__["spec"] = Composition(kind, told, first.input_shape, first.input_dtype, members=known)
    return whole.eval()


def shares(weights: Sequence[float]) -> Tensor:
    """Weights ≥ 0 as float64 (M,) that sum to 1, however large or small they are."""
    scaled = torch.tensor(weights, dtype=torch.float64)
    scaled = scaled / scaled.max()
    return scaled / scaled.sum()


def classes(models: Sequence[nn.Module], example: Tensor, step: str) -> int:
    """K, the same for all models; ModelOptError for fewer than two models and for models that don't fit together.

    example: one input (1, *shape); step: who asks, for the error.
    """
    if len(models) < 2:
        raise ModelOptError(f"{step} needs at least 2 models, the pool has {len(models)}; add another to the pool")
    found = []
    for at, model in enumerate(models, start=1):
        said = put_out(model, example, f"model {at} of {step}", "choose models of one workload")
        found.append(sound.answers(said, example, f"model {at} of {step}").shape[-1])
    if len(set(found)) > 1:
        told = ", ".join(map(str, found))
        raise ModelOptError(f"the models of {step} answer with {told} classes; choose models of one workload")
    return int(found[0])


def put_out(model: nn.Module, example: Tensor, who: str, remedy: str) -> Tensor:
    """What a model puts out for one input (1, *shape); ModelOptError where it does not take such inputs.

    who, remedy: for the error.
    """
    try:
        with torch.no_grad():
            made = model(example)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).split("\n")[0][:100]
        raise ModelOptError(f"{who} does not take inputs {tuple(example.shape[1:])} ({reason}); {remedy}") from None
    return sound.one_tensor(made, who)
