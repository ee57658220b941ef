"""Rules for operators without weights: element by element, sums, concatenation, moves, reductions.

A rule gets the `Call`, notes in its `couplings` what must go together or stay, and returns where the channels lie in
the result. rules.py says which operator has which rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from modelopt_core.structure.graph.call import Call, Space, Spaces


def unknown(call: Call) -> Spaces:
    """Not in the tables: nothing that comes in can go; a layer with weights is reported as left alone."""
    kind = call.name if call.node.op != "call_module" else f"{call.name} ({type(call.layer).__name__})"
    why = f"{kind} is not known to the walk"
    call.freeze(why)
    weight = next(call.layer.parameters(), None) if call.node.op == "call_module" else None
    if weight is not None:
        call.couplings.touch(call.name, "out", call.couplings.make(len(weight)))
        call.couplings.freeze_layer(call.name, why)
    return None


def keep(call: Call) -> Spaces:
    """Element by element: every channel stays where it is."""
    alone = sum(isinstance(call.value(n), Tensor) for n in call.inputs) == 1
    return call.space if alone and isinstance(call.result, Tensor) else unknown(call)


def query(call: Call) -> Spaces:
    """Asks for a shape or a type: no channel goes anywhere."""
    return unknown(call) if isinstance(call.result, Tensor) else None


def pool(call: Call) -> Spaces:
    """Works within each channel of (N, C, *rest)."""
    space = call.space
    if space and space.axis == 1 and isinstance(call.result, Tensor) and call.result.dim() > 2:
        return space
    return call.freeze(f"{call.name} reads another axis")


def combine(call: Call) -> Spaces:
    """A sum, a product: channels that meet go together; one value for all channels leaves them alone."""
    return _meet(call, [(call.walk.env[n], call.walk.spaces.get(n)) for n in call.inputs], call.result.dim())


def _meet(call: Call, operands: list[tuple[Any, Spaces]], rank: int) -> Spaces:
    spaces = [(s.axis - value.dim(), s.ids) for value, s in operands if isinstance(s, Space)]
    if not spaces or len(spaces) < len(call.labelled):
        return unknown(call)
    axis, ids = spaces[0]
    if any(other != axis or len(more) != len(ids) for other, more in spaces):
        return call.freeze(f"it meets another layout in {call.name}")
    call.couplings.tie([more for _, more in spaces], "it is combined with channels that must stay")
    for value, space in operands:
        if not isinstance(value, Tensor):
            call.freeze(f"{call.name} uses a number that was computed from shapes")
        elif space is None and value.dim() >= -axis and value.shape[axis] != 1:
            call.freeze("it is combined with a tensor whose channels must stay")
    return Space(rank + axis, ids)


def concatenate(call: Call) -> Spaces:
    """Along the channels: one range after the other. Along another axis: channels meet as in a sum."""
    parts, dim = call.argument(0, "tensors"), int(call.argument(1, "dim", 0)) % call.result.dim()
    several = call.walk.spaces.get(parts) if isinstance(parts, fx.Node) else tuple(map(call.walk.spaces.get, parts))
    if not isinstance(several, tuple):
        return unknown(call)
    operands = list(zip(call.value(parts), several, strict=True))
    if any(isinstance(s, Space) and s.axis != dim for s in several):
        return _meet(call, operands, call.result.dim())
    ids = [s.ids if isinstance(s, Space) else torch.zeros(v.shape[dim], dtype=torch.long) for v, s in operands]
    return Space(dim, torch.cat(ids))


def move(call: Call) -> Spaces:
    """Axes change places, or other axes lose elements: the channels must come out whole and in their order."""
    space = call.walk.spaces[call.inputs[0]]
    if isinstance(space, tuple):  # one of several results
        return space[call.node.args[1]] if call.name == "getitem" else unknown(call)  # type: ignore[index]
    moved = _settle(call, call.moved(), ())
    if space and not (isinstance(moved, Space) and torch.equal(moved.ids, space.ids)):
        return call.freeze(f"{call.name} takes or reorders some of its channels")
    return moved


def flatten(call: Call) -> Spaces:
    """(N, C, *rest) -> (N, C · rest): each channel becomes a run of features."""
    return _settle(call, call.moved(), ())


def reshape(call: Call) -> Spaces:
    """Axes merge or split. A size that is written into the code can't change: that axis loses nothing."""
    sizes = call.node.args[1:] or (call.argument(1, "shape", call.argument(1, "size")),)
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    if len(sizes) != call.result.dim():
        return unknown(call)
    return _settle(call, call.moved(), tuple(a for a, s in enumerate(sizes) if isinstance(s, int) and s != -1))


def _settle(call: Call, numbers: Tensor, rigid: tuple[int, ...]) -> Spaces:
    """Where the channels lie after a move. Numbers that vary on several axes are tied along all but one."""
    varying = [a for a in range(numbers.dim()) if _varies(numbers, a)]
    free = [a for a in varying if a not in rigid]
    if not varying:
        return call.freeze("all of its channels are tied to each other")
    if not free:
        return call.freeze(f"the size {call.result.shape[varying[0]]} is written into {call.name}")
    if len(free) > 1:
        return call.freeze(f"{call.name} mixes its axes")
    for axis in set(range(numbers.dim())) - set(varying):
        numbers = numbers.narrow(axis, 0, 1)
    slices = numbers.movedim(free[0], -1).flatten(0, -2)  # one row per place on the rigid axes
    call.couplings.tie(slices, f"{call.name} ties it to channels that must stay")
    return Space(free[0], slices[0])


def _varies(numbers: Tensor, axis: int) -> bool:
    if numbers.shape[axis] < 2 or numbers.stride(axis) == 0:
        return False
    return not bool((numbers == numbers.narrow(axis, 0, 1)).all())


def divide(call: Call) -> Spaces:
    """Along the channels, equal parts must stay equal: each loses as many."""
    space, size = call.space, call.argument(1, "chunks")
    if space is None:
        return unknown(call)
    if call.argument(2, "dim", 0) % call.source.dim() != space.axis:
        return (space,) * len(call.result)
    parts = space.ids.split([p.shape[space.axis] for p in call.result])
    if call.name == "split" and not isinstance(size, fx.Node):
        return call.freeze(f"the size {len(parts[0])} is written into split")
    if len({len(p) for p in parts}) > 1:
        return call.freeze(f"{call.name} makes unequal parts")
    call.couplings.balance(parts, f"{call.name} ties it to channels that must stay")
    return tuple(Space(space.axis, p) for p in parts)


def reduce(call: Call) -> Spaces:
    """Over another axis the channels go on; a reduction over their own axis would change its meaning."""
    space, rank = call.space, call.source.dim()
    dims, keepdim = call.argument(1, "dim"), bool(call.argument(2, "keepdim", False))
    dims = dims if isinstance(dims, (tuple, list)) else () if dims is None else (dims,)
    if space is None or not isinstance(call.result, Tensor) or not all(isinstance(d, int) for d in dims):
        return unknown(call)
    over = {d % rank for d in dims}
    if not over or space.axis in over:
        return call.freeze("it is reduced over its channels")
    return Space(space.axis if keepdim else space.axis - sum(d < space.axis for d in over), space.ids)


def pad(call: Call) -> Spaces:
    """Other axes may grow; what is added to the channels themselves stays."""
    space, sizes = call.space, call.argument(1, "pad")
    if space is None or not all(isinstance(s, int) for s in sizes):
        return unknown(call)
    last = 2 * (call.source.dim() - 1 - space.axis)
    low, high = (*sizes, *(0,) * (2 * call.source.dim()))[last : last + 2]
    if (low, high) != (0, 0) and (min(low, high) < 0 or call.argument(2, "mode", "constant") != "constant"):
        return unknown(call)
    return Space(space.axis, torch.cat([space.ids.new_zeros(low), space.ids, space.ids.new_zeros(high)]))


def softmax(call: Call) -> Spaces:
    """Channels on another axis than the one it sums over go on."""
    dim = call.layer.dim if call.node.op == "call_module" else call.argument(1, "dim")
    if call.space is None or dim is None or dim % call.result.dim() == call.space.axis:
        return call.freeze(f"{call.name} sums over these channels: without one the others would change")
    return call.space


def layer_norm(call: Call) -> Spaces:
    """Averages over its last axes: if those are the channels, removing one is no longer the same as zeroing it."""
    shape = call.layer.normalized_shape if call.node.op == "call_module" else call.argument(1, "normalized_shape")
    if call.space and call.space.axis >= call.source.dim() - len(shape):
        return call.freeze(f"{call.name} averages over these channels: without one the others would change")
    return call.space
