"""Is a model fit to be worked on? The one place that says what is wrong with its numbers or its answers.

Weights are looked at once per key, so that a slider move costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine.cache import Store
from modelopt_core.models import identity
from modelopt_core.workloads.workload import Workload

PRECISE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # others have no minimum in PyTorch
CHECKED = Store(2**21)  # some hundred models; looking again is cheap, but not per move
AGAIN = "take another model, or train it again"
MEMBER = re.compile(r"^members\.(\d+)\.")


def check(model: nn.Module, who: str = "the model", remedy: str = AGAIN, bare: bool = False) -> None:
    """ModelOptError for what is no network, has no parameters, or holds numbers that are not finite.

    who, remedy: for the error, which names the tensor. A buffer may hold infinities, as a mask does, unless it is the
    statistic of a norm; no variance may be negative. bare: it may be without parameters, as a stage that cuts out is.
    """
    if not isinstance(model, nn.Module):
        raise ModelOptError(f"{who} is a {type(model).__name__}; give a network, an nn.Module such as mo.baseline's")
    if not bare and next(model.parameters(), None) is None:
        raise ModelOptError(f"{who} ({name_of(model)}) has no parameters; give a network that has weights")
    if fault := CHECKED.get(("sound", identity.key(model)), lambda: _fault(model)):
        raise ModelOptError(f"{who} cannot be used: {fault}; {remedy}")


def pool(models: Sequence[nn.Module], who: str) -> None:
    """`check` of every model of a pool; ModelOptError for what is no pool, as one model alone is none."""
    if isinstance(models, nn.Module) or not isinstance(models, Sequence):
        raise ModelOptError(f"{who} takes a list of models, not a {type(models).__name__}; write [model]")
    for at, model in enumerate(models, start=1):
        check(model, f"model {at} of {who}", bare=True)


def made(model: nn.Module, step: str, of: Sequence[nn.Module]) -> None:
    """`check` of what a step made of these models: the error tells what they have in the place that went wrong."""
    try:
        check(model, f"what {step} made", f"choose other settings of {step}", bare=True)
    except ModelOptError as error:
        found = next(_broken(model), None)
        states = [one.state_dict() for one in of]
        if (
            found is None
            or len(of) < 2
            or not all(found[0] in s and s[found[0]].shape == found[1].shape for s in states)
        ):
            raise
        name, _, at = found
        values = [float(state[name].flatten()[at]) for state in states]
        worst = max(range(len(values)), key=lambda m: abs(values[m] - values[0]))
        told = ", ".join(f"{value:.3g}" for value in values)
        raise ModelOptError(f"{error} (the models have {told} there, model {worst + 1} moves it most)") from None


def answers(logits: object, inputs: Tensor, who: str, classes: frozenset[int] = frozenset()) -> Tensor:
    """What a model answers to inputs (n, *shape); ModelOptError unless it is one floating tensor (n, K) with a
    likeliest class in every row.

    classes: what K may be; empty, anything, and other inputs (n, *shape) are an answer as well: those of a map.
    """
    found, n = one_tensor(logits, who), len(inputs)
    fits = found.dim() == 2 or (not classes and found.dim() == inputs.dim())
    if not fits or len(found) != n or not found.numel() or not found.is_floating_point():
        shape, kind = tuple(found.shape), str(found.dtype).removeprefix("torch.")
        raise ModelOptError(f"{who} answers {n} inputs with {kind} {shape}; a model answers with floats ({n}, K)")
    if classes and found.shape[1] not in classes:
        allowed = " or ".join(map(str, sorted(classes)))
        raise ModelOptError(f"{who} answers with {found.shape[1]} classes where {allowed} are asked for; take another")
    best = found.flatten(1).amax(dim=1)
    if not bool(best.isfinite().all()):
        at = int((~best.isfinite()).nonzero()[0])
        raise ModelOptError(
            f"{who} answers input {at} with {float(best[at])} at best; its weights are too large, or a mask hides all"
        )
    return found


def one_tensor(logits: object, who: str) -> Tensor:
    """What a model puts out, if it is one tensor."""
    if not isinstance(logits, Tensor):
        raise ModelOptError(
            f"{who} puts out a {type(logits).__name__}; a model answers with one tensor of shape (n, K)"
        )
    return logits


def answering(model: nn.Module, workload: Workload) -> None:
    """`answers` of a copy of the model to one input of the workload, once per key."""

    def run() -> bool:
        with torch.no_grad():
            try:
                found = identity.copied(model)(workload.example)
            except (RuntimeError, ValueError, IndexError, TypeError):
                return False  # whoever runs it for its answers says so in words of its own
        answers(found, workload.example, name_of(model))
        return True

    CHECKED.get(("answers", identity.key(model), workload.data_hash), run)


def name_of(model: nn.Module) -> str:
    """What people call it."""
    return getattr(model, "called", type(model).__name__)


def _fault(model: nn.Module) -> str:
    """What is wrong, in words; empty where nothing is."""
    found = next(_broken(model), None)
    if found is None:
        return ""
    name, tensor, at = found
    if member := MEMBER.match(name):
        name = f"{name[member.end() :]} of its model {int(member[1]) + 1}"
    value = float(tensor.flatten()[at])
    if -torch.inf < value < 0:
        return f"{name} is {value:.4g} at place {at}, and no variance is below zero"
    wrong = int((~tensor.isfinite()).sum())
    return f"{wrong} of {tensor.numel()} numbers of {name} are not finite ({value} at place {at})"


def _broken(model: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    """(name, tensor, place) of every first number that can't be."""
    for path, module in model.named_modules():
        statistic = hasattr(module, "running_var")
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or not tensor.is_floating_point() or not tensor.numel():
                continue
            numbers = tensor.detach() if tensor.dtype in PRECISE else tensor.detach().float()
            low, high = (float(end) for end in numbers.aminmax())  # not a number, where one of them is none
            variance = statistic and name == "running_var"
            if -torch.inf < low <= high < torch.inf and not (variance and low < 0):
                continue
            wrong = numbers.isnan() if name in module._buffers and not statistic else ~numbers.isfinite()
            wrong = (wrong | (numbers < 0) if variance else wrong).flatten().nonzero()
            if len(wrong):
                yield f"{path}.{name}" if path else name, numbers, int(wrong[0])
