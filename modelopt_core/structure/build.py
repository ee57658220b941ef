"""Networks from what a file or an index says of them: an architecture with its arguments, cut to shape, or a composite.

`build` makes one from a `Spec` and notes the spec on it, so that a file can say how to make it again.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelopt_core.errors import ModelOptError
from modelopt_core.models.architectures import ARCHITECTURES
from modelopt_core.models.composite import compose
from modelopt_core.models.limits import Allowance, activations, leaves
from modelopt_core.models.spec import Composition, Spec
from modelopt_core.structure import channels

MAX_PARAMETERS = 2**26  # 256 MiB of float32: what a file may expand to
MAX_SIZES = 64  # numbers in one argument, hence layers
MAX_MEMBERS = 64  # models in one composite, however deep


def build(
    spec: Spec, seed: int = 0, max_parameters: int = MAX_PARAMETERS, max_activations: int = MAX_PARAMETERS
) -> nn.Module:
    """The module that `spec` describes, in eval mode, with `spec` noted on it as `model.spec`.

    Parameters are drawn from a local generator seeded with `seed`, as PyTorch would draw them: the global random state
    is neither read nor written. They are counted on the meta device first, and what one example becomes on its way is
    bounded, so that a hostile spec costs no memory. Raises ModelOptError for an unknown architecture, for arguments
    that it does not take, and for more parameters or activations than these.
    """
    if isinstance(spec, Composition):
        return _build_composite(spec, seed, max_parameters, max_activations)
    entry = ARCHITECTURES[spec.architecture]
    arguments = dict(spec.arguments)
    try:
        inspect.signature(entry.function).bind(**arguments)
        _check_numbers(spec)
        with torch.device("meta"), Undrawn():
            model = entry(**arguments)
        parameters = sum(p.numel() for p in model.parameters())
        if parameters > max_parameters:
            raise ValueError(f"{parameters:,} parameters, allowed are {max_parameters:,}")
        if (numbers := activations(model, spec.input_shape)) > max_activations:
            raise ValueError(f"up to {numbers:,} activations of one example, allowed are {max_activations:,}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelOptError(_refusal(spec, entry.function, error)) from error
    _allocate(model)
    initialise(model, torch.Generator().manual_seed(seed))
    if spec.kept:
        model = channels.cut_to(model, spec.example, dict(spec.kept))
    model.__dict__["spec"] = spec
    return model.eval()


def _build_composite(spec: Composition, seed: int, max_parameters: int, max_activations: int) -> nn.Module:
    """The members, each within what the earlier ones left of the two limits, and the whole around them."""
    import_module("modelopt_core.steps.registered")  # it registers their composites
    if not 1 <= (n := leaves(spec)) <= MAX_MEMBERS:
        raise ModelOptError(f"a composite of {n:,} models; allowed are 1 to {MAX_MEMBERS}")
    first = spec.members[0]
    if (spec.input_shape, spec.input_dtype) != (first.input_shape, first.input_dtype):
        raise ModelOptError(
            f"composite {spec.architecture!r} takes {spec.input_dtype} {spec.input_shape}, and its first member takes "
            f"{first.input_dtype} {first.input_shape}; they must be the same"
        )
    members, left, numbers = [], max_parameters, max_activations
    for member in spec.members:
        members.append(build(member, seed, left, numbers))
        left -= sum(p.numel() for p in members[-1].parameters())
        numbers -= activations(members[-1], member.input_shape)
    try:
        with Allowance(left):
            whole: nn.Module = compose(spec.architecture, members, **dict(spec.arguments))  # type: ignore[arg-type]
    except (TypeError, AttributeError) as error:
        reason = str(error)[:160]
        raise ModelOptError(f"composite {spec.architecture!r} does not take {dict(spec.arguments)}: {reason}") from None
    if spec.kept:
        whole = channels.cut_to(whole, spec.example, dict(spec.kept))
    whole.__dict__["spec"] = spec
    return whole.eval()


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw all parameters in place as PyTorch does, but from `generator`; word vectors smaller; norms are the identity.

    Source: He et al., Delving Deep into Rectifiers, arXiv 1502.01852 (the uniform form, with a = √5).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())  # 1 / √fan_in
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1, generator=generator)  # 1, the default, generalises worse
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()  # batch and layer norms: ones and zeros


def _allocate(model: nn.Module) -> None:
    """Give a model on the meta device memory: what `to_empty` does, without importing sympy (0.3 s)."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


class Undrawn(TorchFunctionMode):
    """Layers made inside draw no parameters; on the meta device that would only import half a second of symbols."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is nn.init.normal_:  # of an embedding; inside it no mode is asked any more
            return (kwargs or {})["tensor"]
        return args[0] if func in (Tensor.uniform_, Tensor.normal_) else func(*args, **(kwargs or {}))


def _check_numbers(spec: Spec) -> None:
    """Arguments and shapes are positive whole numbers, and few of them."""
    if spec.input_dtype not in ("float32", "int64"):
        raise ValueError(f"input_dtype {str(spec.input_dtype)[:20]!r}; choose from float32, int64")
    for name, value in (*spec.arguments, ("input_shape", spec.input_shape)):
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(type(n) is int and 1 <= n <= MAX_PARAMETERS for n in numbers):
            raise ValueError(f"{name}={str(value)[:40]} must be whole numbers from 1 to {MAX_PARAMETERS:,}")
        if not 1 <= len(numbers) <= MAX_SIZES:
            raise ValueError(f"{name} has {len(numbers):,} numbers, allowed are 1 to {MAX_SIZES}")


def _refusal(spec: Spec, function: Callable[..., nn.Module], error: Exception) -> str:
    """One line: the architecture, what it takes, what is wrong."""
    takes = ", ".join(str(p).replace("'", "") for p in inspect.signature(function).parameters.values())
    reason = str(error).split("\n", 1)[0][:160]
    return f"architecture {spec.architecture!r} takes {takes}; given was {str(dict(spec.arguments))[:80]}: {reason}"
