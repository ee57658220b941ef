"""Rules for layers with weights: they make, read or carry channels."""

from __future__ import annotations

from torch import Tensor

from modelopt_core.structure.graph.call import Call, Space, Spaces


def made(call: Call, size: int, axis: int) -> Space | None:
    """A layer's own channels, on `axis` of its result. A single one can't go, so it need not be followed."""
    ids = call.couplings.make(size)
    call.couplings.touch(call.name, "out", ids)
    return Space(axis, ids) if size > 1 else None


def reads(call: Call, axis: int) -> bool:
    """The layer reads its input's channels on `axis`; channels on another axis stay."""
    if call.space and call.space.axis != axis:
        call.freeze(f"{call.name} reads another axis")
    return call.space is not None and call.space.axis == axis


def linear(call: Call) -> Spaces:
    """Reads and makes the last axis."""
    axis = call.result.dim() - 1
    if reads(call, axis) and call.space:
        call.couplings.touch(call.name, "in", call.space.ids)
    return made(call, call.layer.out_features, axis)


def convolution(call: Call) -> Spaces:
    """Reads and makes the axis before the spatial ones."""
    layer = call.layer
    axis = call.result.dim() - len(layer.kernel_size) - 1
    known = reads(call, axis)
    if layer.groups > 1:
        return _grouped(call, axis, call.space.ids if known and call.space else None)
    if known and call.space:
        call.couplings.touch(call.name, "in", call.space.ids)
    return made(call, layer.out_channels, axis)


def _grouped(call: Call, axis: int, ids: Tensor | None) -> Space | None:
    """Either whole groups go (a depthwise layer: single channels), or as many channels from each."""
    layer, couplings = call.layer, call.couplings
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups  # of one group
    why = f"{call.name} is a grouped convolution over channels that must stay"
    if ids is not None and layer.groups >= min(inputs, outputs):  # the finer of the two cuts
        couplings.tie(ids.view(layer.groups, inputs).t(), why)
        carried = ids.view(layer.groups, inputs)[:, 0].repeat_interleave(outputs)
        couplings.touch(call.name, "norm", carried)
        return Space(axis, carried)
    if ids is not None:
        couplings.tie(ids.view(layer.groups, inputs), why)
        couplings.touch(call.name, "in", ids[:inputs])
    space = made(call, layer.out_channels, axis)
    if space:
        couplings.tie(space.ids.view(layer.groups, outputs), why)
    return space


def embedding(call: Call) -> Spaces:
    """Makes the last axis."""
    return made(call, call.layer.embedding_dim, call.result.dim() - 1)


def channel_norm(call: Call) -> Spaces:
    """Normalises every channel by itself: it carries them."""
    if not (reads(call, 1) and call.space):
        return None
    call.couplings.touch(call.name, "norm", call.space.ids)
    return call.space


def prelu(call: Call) -> Spaces:
    """One slope for all channels, or one for each."""
    return call.space if call.layer.num_parameters == 1 else channel_norm(call)


def group_norm(call: Call) -> Spaces:
    """Averages over the channels of one group: they go together."""
    if not (reads(call, 1) and call.space):
        return None
    why = f"{call.name} averages over it and channels that must stay"
    call.couplings.tie(call.space.ids.view(call.layer.num_groups, -1).t(), why)
    call.couplings.touch(call.name, "norm", call.space.ids)
    return call.space


def attention(call: Call) -> Spaces:
    """Heads are channels of their own, inside the layer; the width that it reads and writes stays."""
    layer = call.layer
    call.freeze(f"{call.name} reads and writes one width")
    asked = dict(call.node.kwargs)
    plain = asked.pop("need_weights", True) is False and not (asked.keys() - {"query", "key", "value"})
    fits = layer._qkv_same_embed_dim and layer.bias_k is None and not layer.add_zero_attn
    ids = call.couplings.make(layer.num_heads)
    call.couplings.touch(call.name, "out", ids[None, :, None].expand(3, -1, layer.head_dim).flatten())  # q, k, v
    call.couplings.touch(f"{call.name}.out_proj", "in", ids.repeat_interleave(layer.head_dim))
    if not (plain and len(call.node.args) <= 3 and fits):
        call.couplings.freeze(
            ids.tolist(), "its heads are masked, weighed or joined in a way that the walk does not know"
        )
    return None
