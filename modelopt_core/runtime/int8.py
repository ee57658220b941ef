"""A float ONNX graph whose weights lie on 8-bit grids, rewritten so that ONNX Runtime runs integer kernels.

The weights stay the integers they are: int8 codes with the grid's scale. Activations become uint8 with one scale per
tensor, from the smallest and largest value seen on training examples. Each is written as a QuantizeLinear and
DequantizeLinear pair (QDQ) around the float operator, and the runtime turns every such island into one integer
operator that accumulates in int32. A batch norm behind a layer is folded into it first: it multiplies the scale of
each output channel and leaves the codes alone.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
arXiv 1712.05877.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

from modelopt_core.models import weight_grid

LEVELS = (255, 256)  # symmetric, affine: what fills eight bits
QUANTIZED = (nn.Conv1d, nn.Conv2d, nn.Linear)
TRANSPARENT = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")  # same values out as in
FUSED = ("Relu", "Clip")  # the range of the uint8 output does their work
INT32 = 2**31 - 1

Array = np.ndarray
RunFloat = Callable[[onnx.ModelProto, list[str]], list[Array]]  # (graph, tensor names) -> their values on examples


@dataclass(frozen=True, eq=False)
class Weight:
    """Value = (codes − zero_point) · scale. codes: int8 (out, …); scale: float32 (out,); zero_point: int8 (out,)."""

    codes: Array
    scale: Array
    zero_point: Array

    @property
    def floats(self) -> Array:
        """float32 (out, …)."""
        rows = (-1,) + (1,) * (self.codes.ndim - 1)
        return (self.codes.astype(np.float32) - self.zero_point.reshape(rows)) * self.scale.reshape(rows)

    def folded(self, factor: Array) -> Weight | None:
        """This weight with output channel c multiplied by factor[c]; None where int8 cannot hold the mirror image."""
        if (factor < 0).any() and (self.zero_point.any() or self.codes.min() == -128):
            return None
        rows = (-1,) + (1,) * (self.codes.ndim - 1)
        codes = self.codes * np.sign(factor).astype(np.int8).reshape(rows)  # ±127 stays inside int8
        if self.zero_point.any():  # a factor of 0 must give the code of zero
            codes = np.where((factor == 0).reshape(rows), self.zero_point.reshape(rows), self.codes)
        return Weight(codes, np.where(factor == 0, self.scale, self.scale * np.abs(factor)), self.zero_point)


@dataclass
class Site:
    """One Conv, Gemm or MatMul that can run on integers; `bias` float32 (out,) once a batch norm is folded in."""

    layer: str
    node: onnx.NodeProto
    weight: Weight
    bias: Array | None


def integer_weights(model: nn.Module) -> tuple[dict[str, Weight], dict[str, str]]:
    """({layer: Weight} that integer kernels can take, {layer: reason} for the other convolutions and linear layers)."""
    weights, reasons = {}, {}
    for name, module in model.named_modules():
        if isinstance(module, QUANTIZED):
            found = _integer_weight(module)
            if isinstance(found, str):
                reasons[name] = found
            else:
                weights[name] = found
    return weights, reasons


def integer_graph(
    graph: onnx.ModelProto, weights: dict[str, Weight], run_float: RunFloat
) -> tuple[onnx.ModelProto, set[str]]:
    """(a copy of the float graph with integer islands, the layers of `weights` that are such islands).

    run_float gives the activations on calibration examples; where they are not finite, nothing can be an integer. A
    layer whose bias int32 cannot hold stays in float.
    """
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    edit = _Edit(result.graph)
    sites = [site for node in result.graph.node if (site := edit.site(node, weights)) is not None]
    for site in sites:
        edit.fold_batch_norm(site)
    sources = edit.activations(sites)
    names = sorted(set(sources.values()))
    parameters = {name: _uint8_grid(value) for name, value in zip(names, run_float(graph, names), strict=True)}
    if not all(np.isfinite(scale) for scale, _ in parameters.values()):
        return graph, set()
    scales = {tensor: parameters[source][0] for tensor, source in sources.items()} | edit.known
    kept = [site for site in sites if edit.quantize_weight(site, scales[site.node.input[0]])]
    for tensor, source in edit.activations(kept).items():
        edit.quantize_activation(tensor, *parameters[source])
    edit.finish()
    return result, {site.layer for site in kept}


def _integer_weight(module: nn.Module) -> Weight | str:
    """The module's weight as int8, or the reason why integer kernels cannot take it."""
    found = weight_grid.codes(module)
    if found is None or found[1].levels not in LEVELS:
        return "its weights do not lie on an 8-bit grid"
    codes, on = found
    if isinstance(on, weight_grid.Codebook):
        return "its weights share values that are not evenly spaced"
    if on.group:
        return "its scales change along the input, and int8 kernels sum over it"
    q, scale, zero = codes.cpu().numpy(), on.scale.cpu().numpy(), on.zero_point.cpu().numpy()
    if (zero != np.round(zero)).any():
        return "its zero point is no integer"
    same = (zero == zero[0]).all()
    if not same and not isinstance(module, nn.Linear):
        return "convolutions have no integer kernel for a zero point per channel"
    shift = int(zero[0]) if same and zero[0] >= 0 and on.levels == 255 else 128
    if np.abs(zero - shift + 0.5).max() > 128 or q.max() - shift > 127 or q.min() - shift < -128:
        return "its zero point lies outside eight bits"
    rows = np.ones(len(q), np.float32)
    scale = np.where((q == zero.reshape((-1,) + (1,) * (q.ndim - 1))).reshape(len(q), -1).all(1), 1, scale)  # zero rows
    return Weight((q - shift).astype(np.int8), rows * scale.astype(np.float32), (rows * (zero - shift)).astype(np.int8))


def _uint8_grid(values: Array) -> tuple[np.float32, int]:
    """(scale, zero_point) of the uint8 grid from min to max of `values`, stretched to hold zero; NaN if they are."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = np.float32((high - low) / 255) or np.float32(1)
    return scale, int(np.clip(np.round(-low / scale), 0, 255)) if np.isfinite(scale) else 0


class _Edit:
    """The graph under edit, with an index of who makes and who reads each tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}
        self.folded: list[onnx.NodeProto] = []  # batch norms that are part of the layer before them now
        self.added: list[onnx.NodeProto] = []
        self.known: dict[str, np.float32] = {}  # scales of tensors that were rounded before

    def array(self, name: str) -> Array:
        """The value of an initializer, or of a Constant before any Cast."""
        while name in self.maker and self.maker[name].op_type == "Cast":
            name = self.maker[name].input[0]
        tensor = self.constants[name] if name in self.constants else self.maker[name].attribute[0].t
        return np.asarray(numpy_helper.to_array(tensor))

    def site(self, node: onnx.NodeProto, weights: dict[str, Weight]) -> Site | None:
        """The node as a Site when its second input is one of the `weights` (through a Transpose for MatMul)."""
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return None
        name = node.input[1]
        if node.op_type == "MatMul":
            turn = self.maker.get(name)
            name = turn.input[0] if turn is not None and turn.op_type == "Transpose" else ""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Gemm" and (attributes.get("transB"), attributes.get("alpha", 1.0)) != (1, 1.0):
            return None
        weight = weights.get(name.removesuffix(".weight")) if name.endswith("weight") else None
        biased = len(node.input) > 2 and node.input[2] in self.constants
        if weight is None or (len(node.input) > 2 and not biased):
            return None
        return Site(name.removesuffix(".weight"), node, weight, self.array(node.input[2]) if biased else None)

    def fold_batch_norm(self, site: Site) -> None:
        """Multiply a following batch norm into scale and bias."""
        norm = self.only_reader(site.node.output[0])
        if norm is None or norm.op_type != "BatchNormalization" or site.node.op_type == "MatMul":
            return
        gamma, beta, mean, variance = (self.array(name) for name in norm.input[1:5])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(variance + np.float32(epsilon))
        weight = site.weight.folded(factor)
        if weight is not None:
            bias = np.float32(0) if site.bias is None else site.bias
            site.weight, site.bias = weight, (bias - mean) * factor + beta
            site.node.output[0] = norm.output[0]
            self.maker[norm.output[0]] = site.node
            self.folded.append(norm)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads the tensor, if it is the one and the tensor is no output of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def activations(self, sites: list[Site]) -> dict[str, str]:
        """{tensor to quantize: the tensor whose range it shares}: inputs of all sites and outputs of convolutions."""
        sources: dict[str, str] = {}
        for site in sites:
            chain = [site.node.input[0]]
            made = self.maker.get(chain[0])
            if made is not None and made.op_type == "DequantizeLinear":  # rounded in the float graph already
                self.known[chain[0]] = np.float32(self.array(made.input[1]))
                chain = []
            while chain and (maker := self.maker.get(chain[-1])) is not None and maker.op_type in TRANSPARENT:
                chain.append(maker.input[0])
            sources |= dict.fromkeys(chain, chain[-1] if chain else "")
            if site.node.op_type == "Conv":  # QLinearConv has an integer output, QGemm may have a float one
                out = site.node.output[0]
                after = self.only_reader(out)
                out = after.output[0] if after is not None and after.op_type in FUSED else out
                sources.setdefault(out, out)
        return sources

    def quantize_weight(self, site: Site, input_scale: np.float32) -> bool:
        """Give the node its int8 weight and int32 bias; False, and float ones, where int32 cannot hold the bias."""
        node, weight, name = site.node, site.weight, site.node.output[0]
        if site.bias is not None:
            scale = input_scale * weight.scale
            steps = np.round(site.bias.astype(np.float64) / scale)
            if not (np.abs(steps) <= INT32).all():
                node.input[1:] = [
                    self.constant(f"{name}_weight", weight.floats),
                    self.constant(f"{name}_bias", site.bias),
                ]
                return False
            bias = self.dequantized(f"{name}_bias", steps.astype(np.int32), scale, np.zeros(len(scale), np.int32), 0)
            node.input[2:] = [bias]
        turned = node.op_type == "MatMul"
        codes = np.ascontiguousarray(weight.codes.T) if turned else weight.codes
        node.input[1] = self.dequantized(f"{name}_weight", codes, weight.scale, weight.zero_point, int(turned))
        return True

    def quantize_activation(self, tensor: str, scale: np.float32, zero_point: int) -> None:
        """Put a QDQ pair behind whatever makes the tensor."""
        made = self.maker.get(tensor)
        source, result = (tensor, f"{tensor}_dq") if made is None else (f"{tensor}_float", tensor)
        if made is None:  # an input of the graph keeps its name, so its readers move
            for node in self.readers[tensor]:
                node.input[:] = [result if name == tensor else name for name in node.input]
        else:
            made.output[:] = [source if name == tensor else name for name in made.output]
        pair = [self.constant(f"{tensor}_scale", scale), self.constant(f"{tensor}_zero_point", np.uint8(zero_point))]
        self.added += [
            helper.make_node("QuantizeLinear", [source, *pair], [f"{tensor}_q"]),
            helper.make_node("DequantizeLinear", [f"{tensor}_q", *pair], [result]),
        ]

    def dequantized(self, name: str, codes: Array, scale: Array, zero_point: Array, axis: int) -> str:
        """The name of a tensor that holds (codes − zero_point) · scale along `axis`."""
        inputs = [
            self.constant(f"{name}_codes", codes),
            self.constant(f"{name}_scale", scale.astype(np.float32)),
            self.constant(f"{name}_zero_point", zero_point),
        ]
        self.added.append(helper.make_node("DequantizeLinear", inputs, [name], axis=axis))
        return name

    def constant(self, name: str, value: Array | np.generic) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def finish(self) -> None:
        """Order the nodes so that each follows what it reads, and drop what nobody reads any more."""
        nodes = [node for node in self.graph.node if node not in self.folded] + self.added
        makers = {name: index for index, node in enumerate(nodes) for name in node.output}
        needs: dict[int, list[int]] = {}
        waiting = [makers[name] for name in self.outputs]
        while waiting:
            index = waiting.pop()
            if index not in needs:
                needs[index] = [makers[name] for name in nodes[index].input if name in makers]
                waiting += needs[index]
        ordered = [nodes[index] for index in TopologicalSorter(needs).static_order()]
        read = {name for node in ordered for name in node.input}
        constants = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(ordered)
        self.graph.initializer.extend(constants)
