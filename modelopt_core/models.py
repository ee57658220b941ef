"""Architectures, by name: the allow-list that files and weights may ask for.

Every architecture is a function of plain JSON arguments that returns an ``nn.Module`` written as a student would
read it, and declares which of them are widths. `build` makes one from a `Spec` and notes the spec on it, so that a
file can say how to make it again.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelopt_core import channels
from modelopt_core import denoiser as denoiser  # registers it
from modelopt_core.errors import ModelOptError
from modelopt_core.limits import Allowance, activations, leaves
from modelopt_core.spec import ARCHITECTURES as ARCHITECTURES
from modelopt_core.spec import Composition, Spec

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
    from modelopt_core.composite import compose

    for technique in ("ensemble", "cascade", "pipeline", "fuse"):
        import_module(f"modelopt_core.{technique}")  # it registers its composites
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


@ARCHITECTURES.register("mlp", widths=("sizes",))
def mlp(sizes: tuple[int, ...]) -> nn.Module:
    """Flatten, then Linear layers with ReLU between them: (B, …) -> (B, sizes[-1]).

    sizes: inputs, hidden widths, classes. LeNet-300-100 is (784, 300, 100, 10).
    """
    if not isinstance(sizes, tuple) or len(sizes) < 2:
        raise ValueError(f"sizes={sizes} must be a tuple of inputs, hidden widths and classes")
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}  # (B, sizes[0])
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        if i > 1:
            layers[f"relu{i - 1}"] = nn.ReLU()
        layers[f"fc{i}"] = nn.Linear(inputs, outputs)  # (B, sizes[i])
    return nn.Sequential(OrderedDict(layers))


class Cnn(nn.Module):
    """Two 3×3 convolutions with batch norm for 8×8 images."""

    def __init__(self, width1: int, width2: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width1, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width1)
        self.conv2 = nn.Conv2d(width1, width2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width2)
        self.fc1 = nn.Linear(width2 * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # (B, width1, 8, 8)
        x = F.relu(self.bn2(self.conv2(x)))  # (B, width2, 8, 8)
        x = F.max_pool2d(x, 2)  # (B, width2, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))  # (B, hidden)
        return self.fc2(x)  # (B, classes)


@ARCHITECTURES.register("cnn", widths=("width1", "width2", "hidden"))
def cnn(width1: int = 16, width2: int = 32, hidden: int = 32, classes: int = 10) -> nn.Module:
    """Convolution, batch norm, ReLU, twice; pool; two linear layers: (B, 1, 8, 8) -> (B, classes)."""
    return Cnn(width1, width2, hidden, classes)


class LeNet5(nn.Module):
    """The LeNet-5 of the compression literature: 20 and 50 maps, 500 units, ReLU.

    Source: LeCun et al., Gradient-based learning applied to document recognition, 1998; widths as in Caffe's example.
    """

    def __init__(self, width1: int, width2: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width1, 5)
        self.conv2 = nn.Conv2d(width1, width2, 5)
        self.fc1 = nn.Linear(width2 * 4 * 4, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (B, width1, 12, 12)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, width2, 4, 4)
        x = F.relu(self.fc1(x.flatten(1)))  # (B, hidden)
        return self.fc2(x)  # (B, classes)


@ARCHITECTURES.register("lenet5", widths=("width1", "width2", "hidden"))
def lenet5(width1: int = 20, width2: int = 50, hidden: int = 500, classes: int = 10) -> nn.Module:
    """Two 5×5 convolutions, each ReLU and 2×2 max pooling, then two linear layers: (B, 1, 28, 28) -> (B, classes)."""
    return LeNet5(width1, width2, hidden, classes)


class Article(nn.Module):
    """Two 5×5 convolutions and one linear layer, small enough to look at every weight."""

    def __init__(self, width1: int, width2: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width1, 5)
        self.conv2 = nn.Conv2d(width1, width2, 5)
        self.fc = nn.Linear(width2 * 4 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (B, width1, 12, 12)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (B, width2, 4, 4)
        return self.fc(x.flatten(1))  # (B, classes)


@ARCHITECTURES.register("article", widths=("width1", "width2"))
def article(width1: int = 20, width2: int = 20, classes: int = 10) -> nn.Module:
    """Two 5×5 convolutions, each ReLU and 2×2 max pooling, then one linear layer: (B, 1, 28, 28) -> (B, classes)."""
    return Article(width1, width2, classes)


class Bag(nn.Module):
    """Mean of word vectors, then two linear layers. Token 0 is padding.

    Source: Joulin et al., Bag of Tricks for Efficient Text Classification, arXiv 1607.01759.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(2)  # (B, L, 1)
        x = (self.embedding(tokens) * mask).sum(1)  # (B, width)
        x = x / mask.sum(1).clamp(min=1)  # mean over the words; an empty text gives zeros
        x = F.relu(self.fc1(x))  # (B, hidden)
        return self.fc2(x)  # (B, classes)


@ARCHITECTURES.register("bag", widths=("width", "hidden"))
def bag(vocabulary: int = 4096, width: int = 32, hidden: int = 32, classes: int = 2) -> nn.Module:
    """Mean of word vectors, ReLU layer, linear layer: (B, L) token ids -> (B, classes)."""
    return Bag(vocabulary, width, hidden, classes)


class TextCnn(nn.Module):
    """Filters slide over word vectors; the strongest match of each decides. Token 0 is padding.

    Source: Kim, Convolutional Neural Networks for Sentence Classification, arXiv 1408.5882.
    """

    def __init__(self, vocabulary: int, width: int, filters: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.conv1 = nn.Conv1d(width, filters, kernel, padding=kernel // 2)
        self.fc = nn.Linear(filters, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(1)  # (B, 1, L)
        x = self.embedding(tokens).transpose(1, 2) * mask  # (B, width, L)
        x = F.relu(self.conv1(x)) * mask  # (B, filters, L); after ReLU 0 never beats a match
        x = x.amax(2)  # (B, filters)
        return self.fc(x)  # (B, classes)


@ARCHITECTURES.register("textcnn", widths=("width", "filters"))
def textcnn(vocabulary: int = 4096, width: int = 32, filters: int = 64, kernel: int = 5, classes: int = 2) -> nn.Module:
    """Word vectors, 1-D convolution, ReLU, maximum over time, linear layer: (B, L) token ids -> (B, classes)."""
    if kernel % 2 == 0:
        raise ValueError(f"kernel={kernel} must be odd, so that every word has a place in the output")
    return TextCnn(vocabulary, width, filters, kernel, classes)
