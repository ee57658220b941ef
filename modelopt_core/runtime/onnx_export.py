"""A model for other programs: as an ONNX graph, or its weights as safetensors.

Tracing a module costs 10 to 40 ms and touches process-wide state, its weights 1 ms. So a graph is traced once per
architecture, on a copy whose tensors are all different (the exporter merges equal ones), and afterwards only filled
with weights: the initializers carry the names of the state dict.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

import onnx
import safetensors.torch
import torch
from torch import Tensor, nn

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic
from modelopt_core.models import identity, sound, weight_grid
from modelopt_core.models.composite import Composite
from modelopt_core.models.spec import spec_of

OPSET = 17  # per-axis DequantizeLinear needs 13; 17 is what ONNX Runtime since 1.12 reads
KEPT_TEMPLATES = 64  # graphs without weights: a few kilobytes each
INPUT, OUTPUT = "inputs", "logits"

_templates: OrderedDict[tuple[object, ...], onnx.ModelProto] = OrderedDict()
_exporter = threading.RLock()  # torch.onnx keeps its settings in globals, warnings keeps its filters there


def onnx_bytes(model: nn.Module, example: Tensor) -> bytes:
    """The model in floats as a serialised ONNX graph: `inputs` (batch, *shape) -> `logits` (batch, K), batch free.

    example: (1, *shape). ModelOptError when torch cannot trace the model or ONNX has no word for one of its operators.
    """
    return bytes(onnx_graph(model, example).SerializeToString())


def safetensors_bytes(model: nn.Module) -> bytes:
    """The state dict as a .safetensors file, every tensor as it is; a quantized weight as the floats on its grid."""
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(state)


def export_safetensors(model: nn.Module, path: str | Path) -> Path:
    """Write the weights to `path` as safetensors; the old file stays whole until the new one is.

    Another program reads them with `safetensors.torch.load_file` and needs the architecture's own code to use them.
    """
    sound.check(model)
    return atomic.write(path, safetensors_bytes(model))


def onnx_graph(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """`onnx_bytes` before serialisation. A model with a spec reuses the graph of the last model of its kind."""
    if isinstance(model, Composite) and model.skips:
        if not model.has_graph:
            raise ModelOptError(
                f"{model.called} chooses for every example which model runs, and ONNX has no graph for it here; "
                "export the models one by one, or keep it whole with save"
            )
        return model.graph([onnx_graph(member, model.taken(i, example)) for i, member in enumerate(model.members)])
    spec = spec_of(model)
    if spec is None or _has_hooks(model) or identity.unstable(model):
        return _filled(_trace(model, example), model)
    form = tuple((place, text) for place, text in identity.form(model).items() if not beside(place))
    key = (spec, form, example.shape[1:], example.dtype)
    with _exporter:
        template = _templates.pop(key, None) or _trace(model, example)
        _templates[key] = template  # the last is the most recently used
        while len(_templates) > KEPT_TEMPLATES:
            _templates.popitem(last=False)
    return _filled(template, model)


def _has_hooks(model: nn.Module) -> bool:
    """A hook may compute anything, so a hooked model is traced afresh."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def beside(place: str) -> bool:
    """Is this noted for other readers than the network itself?"""
    return ".aside" in f".{place}" or weight_grid.NOTED.search(place) is not None


def _trace(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """The graph of the model in eval mode; the initializers named as in its state dict have no data."""
    try:
        twin = identity.copied(model).cpu()
        names = set(twin.state_dict())
        with torch.no_grad():
            for k, tensor in enumerate(twin.state_dict().values()):
                if tensor.is_floating_point():
                    tensor.fill_(1 + k / 1024)  # all different, and positive for variances
        buffer = io.BytesIO()
        with _exporter, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the deprecation of dynamo=False, and notes of the tracer
            torch.onnx.export(
                twin,
                (example[:1].cpu(),),
                buffer,  # type: ignore[arg-type]  # its annotation forgets file objects
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
                training=torch.onnx.TrainingMode.PRESERVE,  # eval mode, batch norms not yet folded
                do_constant_folding=False,
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise ModelOptError(
            f"cannot export {type(model).__name__} to ONNX ({reason}); runtime='eager' runs it as it is"
        ) from error
    graph = onnx.load_model_from_string(buffer.getvalue())
    if (count := len(graph.graph.output)) != 1:
        raise ModelOptError(
            f"{type(model).__name__} puts out {count} tensors; a model answers with one of shape (n, K)"
        )
    for initializer in graph.graph.initializer:
        if initializer.name in names:
            initializer.ClearField("raw_data")
    bare = onnx.ModelProto()  # a message's memory, cleared fields and all, goes with the message only
    bare.CopyFrom(graph)
    return bare


def _filled(template: onnx.ModelProto, model: nn.Module) -> onnx.ModelProto:
    """A copy of the template with the model's tensors as initializers."""
    graph = onnx.ModelProto()
    graph.CopyFrom(template)
    state = model.state_dict()
    for initializer in graph.graph.initializer:
        tensor = state.get(initializer.name)
        if tensor is not None:
            initializer.dims[:] = tensor.shape
            initializer.raw_data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return graph
