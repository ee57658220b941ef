"""Linear layers whose weights lie on 4-bit grids, on ONNX Runtime's 4-bit kernel.

MatMulNBits keeps two codes in a byte and multiplies blocks of a row with one scale and zero point each. Its inputs are
rounded to int8 block by block as they come, so nothing is calibrated. Convolutions have no such kernel.

Source: ONNX Runtime, ContribOperators.md, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from modelopt_core.models import weight_grid
from modelopt_core.models.weight_grid import Grid

LEVELS = (15, 16)  # symmetric, affine: what fills four bits
BLOCKS = (128, 64, 32, 16)  # weights of a row with one scale, as the kernel knows them
DOMAIN = "com.microsoft"
INT8_INPUTS = 4  # the kernel's accuracy_level

Array = np.ndarray


def weights(model: nn.Module) -> tuple[dict[str, Grid], dict[str, str]]:
    """({layer: its grid} that the 4-bit kernel can take, {layer: reason} for the others on 4-bit grids)."""
    taken: dict[str, Grid] = {}
    reasons: dict[str, str] = {}
    for name, layer in model.named_modules():
        found = weight_grid.codes(layer) if hasattr(layer, "weight_levels") else None
        if found is None:
            continue
        codes, on = found
        if isinstance(on, weight_grid.Codebook) or on.levels not in LEVELS:
            continue
        if reason := _reason(layer, codes, on):
            reasons[name] = reason
        else:
            taken[name] = on
    return taken, reasons


def four_bit_graph(
    graph: onnx.ModelProto, model: nn.Module, grids: dict[str, Grid]
) -> tuple[onnx.ModelProto, set[str]]:
    """(a copy of the graph with MatMulNBits for the layers of `grids`, the layers that were found in it)."""
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    turned = {node.output[0]: node.input[0] for node in result.graph.node if node.op_type == "Transpose"}
    done = set()
    for node in result.graph.node:
        name = _layer(node, turned)
        if name in grids:
            _replace(result.graph, node, model.get_submodule(name), grids[name], name)
            done.add(name)
    if done:
        read = {name for node in result.graph.node for name in node.input}
        kept = [tensor for tensor in result.graph.initializer if tensor.name in read]
        del result.graph.initializer[:]
        result.graph.initializer.extend(kept)
        result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return result, done


def packed(codes: Array) -> Array:
    """(…, 2k) codes of 0 … 15 -> (…, k) bytes, the first of two in the low half."""
    return (codes[..., ::2] | codes[..., 1::2] << 4).astype(np.uint8)


def _reason(layer: nn.Module, codes: torch.Tensor, on: Grid) -> str:
    """Why the kernel cannot take the layer; empty where it can."""
    if not isinstance(layer, nn.Linear):
        return "only linear layers have a 4-bit kernel"
    if bool((on.zero_point != on.zero_point.round()).any()) or int(codes.max()) >= on.levels:
        return "its grid has no exact zero"
    return "" if _block(on) else f"groups of {on.group} are no multiple of {BLOCKS[-1]}, the kernel's smallest block"


def _block(on: Grid) -> int:
    """The largest block in which all weights have one scale; 0 where there is none."""
    return next((size for size in BLOCKS if on.group % size == 0), 0)


def _layer(node: onnx.NodeProto, turned: dict[str, str]) -> str:
    """The layer that a Gemm or MatMul is, by the name of its weight; empty for any other node."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Gemm" and (attributes.get("transB"), attributes.get("alpha", 1.0)) == (1, 1.0):
        return node.input[1].removesuffix(".weight")
    return turned.get(node.input[1], "").removesuffix(".weight") if node.op_type == "MatMul" else ""


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, layer: nn.Module, on: Grid, name: str) -> None:
    """Make the node a MatMulNBits in place."""
    weight, block = layer.get_parameter("weight").detach(), _block(on)
    rows, width = weight.shape
    blocks = -(-width // block)
    codes = np.zeros((rows, blocks * block), np.uint8)
    codes[:, :width] = on.nearest(weight).numpy()
    scale, zero = (t.expand_as(weight)[:, ::block].contiguous().numpy() for t in on.rows(weight))  # (rows, blocks)
    zeros = np.zeros((rows, blocks + blocks % 2), np.uint8)
    zeros[:, :blocks] = zero
    arrays = [packed(codes.reshape(rows, blocks, block)), scale.reshape(-1), packed(zeros).reshape(-1)]
    constants = [
        numpy_helper.from_array(array, f"{name}_{what}")
        for array, what in zip(arrays, ("nibbles", "scales", "zero_points"), strict=True)
    ]
    graph.initializer.extend(constants)
    bias = ["", node.input[2]] if len(node.input) > 2 else []  # the empty one is g_idx
    node.input[:] = [node.input[0], *(constant.name for constant in constants), *bias]
    node.op_type, node.domain = "MatMulNBits", DOMAIN
    del node.attribute[:]
    sizes = {"K": width, "N": rows, "bits": 4, "block_size": block, "accuracy_level": INT8_INPUTS}
    node.attribute.extend(helper.make_attribute(key, value) for key, value in sizes.items())
