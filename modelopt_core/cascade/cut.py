"""Where a network can be cut in two: places that one tensor alone passes, and the pieces between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.layers import WEIGHTED, layers
from modelopt_core.tracing import trace

SIDE = 4  # a head reads a picture pooled to about so many places a side


@dataclass(frozen=True, eq=False)
class Place:
    """layer: the last with weights before it; at: of the graph's nodes; state: (1, *shape), what passes there."""

    layer: str
    at: int
    state: Tensor


def places(model: nn.Module, example: Tensor) -> list[Place]:
    """Where leaving saves work, in the order of the forward pass: behind each layer, before the next one begins.

    One tensor must carry all that comes later, and what comes later must cost more than a head does. example: (1,
    *shape).
    """
    graph = trace(model)
    order = list(graph.nodes)
    walk = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
    with torch.no_grad():
        answer = walk.run(example)
    when = {node: i for i, node in enumerate(order)}
    last = [max((when[user] for user in node.users), default=i) for i, node in enumerate(order)]
    weighted = [i for i, n in enumerate(order) if n.op == "call_module" and _has_weights(model, str(n.target))]
    left, found = {row.name: row.macs for row in layers(model, example)}, []
    for i, following in pairwise(weighted):
        left.pop(str(order[i].target), None)
        alone = [
            j
            for j in range(i, following)
            if all(last[k] <= j for k in range(j) if order[k].op != "get_attr")
            and isinstance(walk.env[order[j]], Tensor)
        ]
        if alone and sum(left.values()) > _read(state := walk.env[order[alone[-1]]]) * answer.shape[-1]:
            found.append(Place(str(order[i].target), alone[-1], state))
    return found


def chosen(found: Sequence[Place], names: Sequence[str], model: nn.Module) -> list[Place]:
    """The places behind these layers, or all where none is named; ModelOptError for a layer behind which none is."""
    if not found:
        kind = getattr(model, "called", type(model).__name__)
        raise ModelOptError(f"{kind} has no place for an early exit: nowhere is one tensor left and work to save")
    by_layer = {place.layer: place for place in found}
    for name in names:
        if name not in by_layer:
            raise unknown("layer for an exit", name, by_layer)
    return [place for place in found if not names or place.layer in names]


def pieces(model: nn.Module, at: Sequence[Place]) -> list[nn.Module]:
    """The network cut at the places: each piece takes what the one before put out."""
    graph = trace(model)
    order, begin = list(graph.nodes), 0
    made: list[nn.Module] = []
    for end in [*(place.at for place in at), len(order) - 1]:
        part, known = fx.Graph(), {}
        if begin:
            known[order[begin]] = part.placeholder("state")

        def copied(node: fx.Node, part: fx.Graph = part, known: dict[fx.Node, fx.Node] = known) -> fx.Node:
            if node not in known and node.op == "get_attr":  # a parameter that was fetched before the cut
                known[node] = part.node_copy(node)
            return known[node]

        for node in order[begin + 1 if begin else 0 : end + 1]:
            if node.op != "output" and node not in known:
                known[node] = part.node_copy(node, copied)
        result = order[end] if order[end].op != "output" else order[end].args[0]
        assert isinstance(result, fx.Node)
        part.output(known[result])
        made.append(fx.GraphModule(model, part).eval())
        begin = end
    return made


def pool(state: Tensor) -> nn.Module:
    """What a head sees of such states, (b, *shape) -> (b, P): pictures are averaged to about SIDE × SIDE places."""
    if state.dim() != 4:
        return nn.Flatten()
    kernel = (max(1, state.shape[2] // SIDE), max(1, state.shape[3] // SIDE))
    return nn.Sequential(nn.AvgPool2d(kernel), nn.Flatten())


def _has_weights(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), WEIGHTED)


def _read(state: Tensor) -> int:
    """Numbers that a head reads."""
    seen: Tensor = pool(state)(state)
    return seen.numel()
