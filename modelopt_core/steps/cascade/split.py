"""Where a network can be cut in two: places that one tensor alone passes, and the pieces between them.

What is made of the inputs without weights, such as the mask of a text's words, may pass beside that tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.structure.layer_table import WEIGHTED, layers
from modelopt_core.structure.trace import trace

INPUTS = "inputs"  # the place before the first layer
READ = 800  # numbers that a head reads at most, where they can be averaged
MOVES = ("call_function", "call_method")  # nodes without weights of their own


@dataclass(frozen=True, eq=False)
class Place:
    """A cut. layer: the last with weights before it, or INPUTS; at: of the graph's nodes, the last before it.

    kept: the nodes whose results pass, first the one that a head reads; states: theirs for one example, (1, *shape).
    """

    layer: str
    at: int
    kept: tuple[int, ...]
    states: tuple[Tensor, ...]

    @property
    def state(self) -> Tensor:
        """What a head reads, (1, *shape)."""
        return self.states[0]


def places(model: nn.Module, example: Tensor) -> list[Place]:
    """Where leaving saves work, in the order of the forward pass: behind each layer, before the next one begins.

    What comes later must cost more than a linear head does. Inputs that are numbers can be such a place themselves.
    example: (1, *shape).
    """
    graph = trace(model)
    order = list(graph.nodes)
    walk = fx.Interpreter(model, garbage_collect_values=False, graph=graph)
    with torch.no_grad():
        answer = walk.run(example)
    weighted = [i for i, n in enumerate(order) if n.op == "call_module" and _has_weights(model, str(n.target))]
    left, found = {row.name: row.macs for row in layers(model, example)}, []
    passing, raw = _passing(order), _raw(order)
    for i, following in pairwise([0, *weighted]):
        left.pop(layer := str(order[i].target) if i else INPUTS, None)
        cuts = [(j, kept) for j in range(i, following if i else 1) if (kept := passing(j)) and _alone(kept, raw, i)]
        fewest = min((len(kept) for _, kept in cuts), default=0)
        for j, kept in [cut for cut in cuts if len(cut[1]) == fewest][-1:]:
            nodes = sorted(kept, key=lambda k: k in raw)  # what a head reads, first
            states = tuple(walk.env[order[k]] for k in nodes)
            tensors = all(isinstance(state, Tensor) for state in states) and states[0].is_floating_point()
            if tensors and sum(left.values()) > _read(states[0]) * answer.shape[-1]:
                found.append(Place(layer, j, tuple(nodes), states))
    return found


def _passing(order: Sequence[fx.Node]) -> Callable[[int], list[int]]:
    """Of node j: the nodes up to it whose results are used after it; parameters can be fetched again."""
    when = {node: i for i, node in enumerate(order)}
    last = [max((when[user] for user in node.users), default=i) for i, node in enumerate(order)]
    return lambda j: [k for k in range(j + 1) if last[k] > j and order[k].op != "get_attr"]


def _raw(order: Sequence[fx.Node]) -> set[int]:
    """Nodes that are made of the inputs alone, without weights."""
    when, found = {node: i for i, node in enumerate(order)}, set[int]()
    for i, node in enumerate(order):
        if node.op == "placeholder" or (node.op in MOVES and {when[n] for n in node.all_input_nodes} <= found):
            found.add(i)
    return found


def _alone(kept: Sequence[int], raw: set[int], layer: int) -> bool:
    """Does one tensor that a layer worked on pass, beside what is made of the inputs? Before layers, they alone."""
    return sum(k not in raw for k in kept) == 1 if layer else len(kept) == 1


def chosen(found: Sequence[Place], names: Sequence[str], model: nn.Module) -> list[Place]:
    """The places behind these layers, or behind all where none is named; ModelOptError where that is nowhere."""
    by_layer = {place.layer: place for place in found}
    if not by_layer.keys() - {INPUTS} and INPUTS not in names:
        kind = getattr(model, "called", type(model).__name__)
        raise ModelOptError(f"{kind} has no place for an early exit: nowhere is one tensor left and work to save")
    for name in names:
        if name not in by_layer:
            raise unknown("layer for an exit", name, by_layer)
    return [place for place in found if (place.layer in names if names else place.layer != INPUTS)]


def pieces(model: nn.Module, at: Sequence[Place]) -> list[nn.Module]:
    """The network cut at the places: each piece takes what the one before put out, a tuple."""
    graph = trace(model)
    order, begin = list(graph.nodes), 0
    made: list[nn.Module] = []
    passed: tuple[int, ...] = ()
    for place in [*at, None]:
        part = fx.Graph()
        known = {order[i]: part.placeholder(f"state{n}") for n, i in enumerate(passed)}

        def copied(node: fx.Node, part: fx.Graph = part, known: dict[fx.Node, fx.Node] = known) -> fx.Node:
            if node not in known and node.op == "get_attr":  # a parameter that was fetched before the cut
                known[node] = part.node_copy(node)
            return known[node]

        end = place.at + 1 if place else len(order) - 1
        for node in order[begin:end]:
            if node not in known:
                known[node] = part.node_copy(node, copied)
        if place:
            part.output(tuple(known[order[i]] for i in place.kept))
            begin, passed = end, place.kept
        else:
            part.output((copied(order[-1].args[0]),))
        made.append(fx.GraphModule(model, part).eval())
    return made


def pool(state: Tensor) -> nn.Module:
    """What a head sees of such states, (b, *shape) -> (b, P), P ≤ READ where there is something to average.

    Pictures are averaged over squares, the smallest that will do; sequences over all their places.
    """
    if state.dim() == 3:
        return nn.Sequential(nn.AvgPool1d(state.shape[2]), nn.Flatten())
    if state.dim() != 4:
        return nn.Flatten()
    channels, height, width = state.shape[1:]
    sides = range(1, min(height, width) + 1)
    side = next((k for k in sides if channels * (height // k) * (width // k) <= READ), sides[-1])
    return nn.Sequential(nn.AvgPool2d(side), nn.Flatten()) if side > 1 else nn.Flatten()


def _has_weights(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), WEIGHTED)


def _read(state: Tensor) -> int:
    """Numbers that a head reads."""
    seen: Tensor = pool(state)(state)
    return seen.numel()
