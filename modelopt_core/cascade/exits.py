"""Early exits: heads on the hidden layers of one network, so that stages share their work and the rest is skipped.

Source: Teerapittayanon, McDanel and Kung, BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks, arXiv
1709.01686. Either the network stays as it was trained and only linear heads are fitted, each by itself, or network and
heads are trained together (joint.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import onnx
import torch
from torch import Tensor, nn

from modelopt_core import identity
from modelopt_core.cache import STORE
from modelopt_core.calls import sample
from modelopt_core.cascade.confidences import CONFIDENCES, stops
from modelopt_core.cascade.cut import Place, chosen, pieces, places, pool
from modelopt_core.cascade.graph import staged
from modelopt_core.composite import COMPOSITES, Call, Composite, compose
from modelopt_core.errors import ModelOptError
from modelopt_core.logistic import fit, head, take
from modelopt_core.spec import spec_of
from modelopt_core.train import EVALUATION_BATCH
from modelopt_core.workload import Workload

EXAMPLES = 2000  # of train, that heads are fitted to
PULL = 1e-3  # towards zero, where what is read has a mean square of one
LOOKED_AT = 512  # examples whose hidden states a runtime may look at


class Piece(nn.Module):
    """One stretch of a network and its head: what came before (b, S) -> (b, K + 1 + S'), see `forward`.

    takes: (shape, dtype) of every incoming state, none for the network's own inputs. hidden: units of a layer in the
    head, 0 for none. The last piece has no head; its answer is the body's.
    """

    temperature: Tensor

    def __init__(
        self, body: nn.Module, before: Place | None, after: Place | None, classes: int, name: str, hidden: int = 0
    ) -> None:
        super().__init__()
        self.body, self.confidence = body, name
        self.takes = [(tuple(state.shape[1:]), state.dtype) for state in before.states] if before else []
        self.pool = pool(after.state) if after else None
        self.head: nn.Module | None = None
        if after and self.pool:
            self.head = _head(self.pool(after.state).shape[1], hidden, classes)
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities at the temperature, the confidence, and the states, flat."""
        states = self.made(x)
        logits = states[0] if self.head is None or self.pool is None else self.head(self.pool(states[0]))
        said = torch.log_softmax(logits / self.temperature, dim=-1)
        rest = flat(states) if self.head is not None else []
        return torch.cat([said, CONFIDENCES[self.confidence](said)[:, None], *rest], dim=-1)

    def made(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the body makes of what came before, (b, S) or the network's own inputs."""
        parts: Sequence[Tensor] = [x]
        if len(self.takes) > 1:
            parts = x.split([math.prod(shape) for shape, _ in self.takes], dim=1)
        if self.takes:
            parts = [one.reshape(-1, *shape).to(kind) for one, (shape, kind) in zip(parts, self.takes, strict=True)]
        found: tuple[Tensor, ...] = self.body(*parts)
        return found


def flat(states: Sequence[Tensor]) -> list[Tensor]:
    """Each (b, *shape) as numbers (b, S)."""
    return [state.flatten(1).to(torch.get_default_dtype()) for state in states]


class Way(nn.Module):
    """All pieces up to one of them: inputs (b, *shape) -> the log-probabilities (b, K) of that exit."""

    def __init__(self, members: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        self.members, self.classes = nn.ModuleList(members), classes

    def forward(self, x: Tensor) -> Tensor:
        """The state goes from piece to piece."""
        for piece in list(self.members)[:-1]:
            x = piece(x)[:, self.classes + 1 :]
        said: Tensor = self.members[-1](x)
        return said[:, : self.classes]


@COMPOSITES.register("exits")
class Exits(Composite):
    """One network that may be left early. layers: those behind which it can be, with commas; thresholds: (S − 1,).

    hidden: units of a layer in each head, 0 for none.
    """

    called = "Cascade"
    thresholds: Tensor

    def __init__(self, members: Sequence[nn.Module], layers: str, confidence: str, hidden: int = 0) -> None:
        super().__init__()
        if (spec := spec_of(members[0])) is None:
            raise ModelOptError("early exits need a network of a known architecture, such as the workload's own")
        net, self.layers = members[0], tuple(layers.split(","))
        at = chosen(places(net, spec.example), self.layers, net)
        with torch.no_grad():
            self.classes = net(spec.example).shape[-1]
        rows, name = zip(pieces(net, at), [None, *at], [*at, None], strict=True), CONFIDENCES[confidence].name
        self.confidence = name
        self.members = nn.ModuleList(Piece(body, a, b, self.classes, name, hidden) for body, a, b in rows)
        self.register_buffer("thresholds", torch.ones(len(at)))

    @property
    def skips(self) -> bool:
        return True

    @property
    def has_graph(self) -> bool:
        return True

    def graph(self, members: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
        return staged(members, self.thresholds.tolist())

    @property
    def parts(self) -> list[nn.Module]:
        """The ways to each exit; whatever the thresholds, they are the same."""
        keys = [identity.key(piece) for piece in self.members]
        ways = [Way(list(self.members)[: i + 1], self.classes).eval() for i in range(len(keys))]
        return [identity.stamp(way, identity.digest("way", *keys[: i + 1])) for i, way in enumerate(ways)]

    def answer(self, said: Tensor) -> Tensor:
        at = self._left(said)
        return said[at, torch.arange(len(at))]

    def used(self, said: Tensor) -> Tensor:
        """(S, B): 1 for the way that was gone, which includes the shorter ones."""
        return torch.nn.functional.one_hot(self._left(said), len(said)).t().float()

    def _left(self, said: Tensor) -> Tensor:
        confidence = CONFIDENCES[self.confidence]
        return stops(torch.stack([confidence(one) for one in said]), self.thresholds)

    def run(self, calls: Sequence[Call], inputs: Tensor) -> Tensor:
        """Every piece goes on with those examples only that no earlier exit was sure of."""
        answer, state, k = inputs.new_zeros(0), inputs, self.classes
        waiting = torch.arange(len(inputs), device=inputs.device)
        for call, limit in zip(calls, [*self.thresholds.tolist(), -1.0], strict=True):
            said = call(state)
            answer = said[:, :k] if len(answer) == 0 else answer.index_put((waiting,), said[:, :k])
            doubt = said[:, k] < limit
            if not bool(doubt.any()):
                break
            waiting, state = waiting[doubt], said[doubt, k + 1 :]
        return answer

    def every(self, inputs: Tensor) -> Tensor:
        """What every exit says of all inputs: (b, *shape) -> log-probabilities (S, b, K)."""
        said, k = [], self.classes
        for piece in self.members:
            made = piece(inputs)
            said.append(made[:, :k])
            inputs = made[:, k + 1 :]
        return torch.stack(said)

    def feeds(self, at: int, workload: Workload) -> Workload:
        """What piece `at` takes, in place of the inputs of train: the states that reach it when nothing stops early."""
        if at == 0:
            return workload

        keys = [identity.key(piece) for piece in self.members][:at]
        seen = workload.train.take(sample(len(workload.train), LOOKED_AT))
        states = STORE.get(("states", *keys, workload.data_hash), lambda: self.taken(at, seen), lambda t: t.nbytes)
        return replace(workload, train=replace(workload.train, inputs=states))

    def taken(self, at: int, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            for piece in list(self.members)[:at]:
                inputs = piece(inputs)[:, self.classes + 1 :]
        return inputs.clone()


def branched(
    model: nn.Module, workload: Workload, layers: Sequence[str], confidence: str = "max_prob", hidden: int = 0
) -> Exits:
    """The network with heads behind these layers, or wherever one saves work: empty ones, and thresholds are 1."""
    if spec_of(model) is None:
        raise ModelOptError("early exits need a network of a known architecture, such as the workload's own")
    names = [place.layer for place in chosen(places(model, workload.example), layers, model)]
    more = {"hidden": hidden} if hidden else {}
    whole = compose("exits", [model], layers=",".join(names), confidence=confidence, **more)
    assert isinstance(whole, Exits)
    return whole


def fitted(model: nn.Module, workload: Workload, layers: Sequence[str], confidence: str) -> Exits:
    """`branched` with linear heads that say what the hidden states do of the answers; the network stays."""
    key, whole = identity.key(model), branched(model, workload, layers, confidence)
    heads = STORE.get(("exits", key, *whole.layers, workload.data_hash), lambda: _fitted(whole, workload), _bytes)
    for piece, found in zip(whole.members, heads, strict=False):
        take(piece.head, found)  # type: ignore[arg-type]
    return whole


def again(whole: Exits, layers: Sequence[str], confidence: str) -> Exits:
    """A copy at temperature 1 that asks for this confidence; ModelOptError for exits behind other layers."""
    if layers and tuple(layers) != whole.layers:
        raise ModelOptError(
            f"Cascade: this network has its exits behind {', '.join(whole.layers)}, not {', '.join(layers)}; leave "
            "exits empty, or begin with the network itself"
        )
    whole, spec = identity.clone(whole), spec_of(whole)  # type: ignore[assignment]
    name = CONFIDENCES[confidence].name
    for one in (whole, *whole.members):
        one.confidence = name
    for piece in whole.members:
        piece.get_buffer("temperature").fill_(1)
    if spec:
        told = tuple(sorted((dict(spec.arguments) | {"confidence": name}).items()))
        whole.__dict__["spec"] = replace(spec, arguments=told)
    return whole


def settled(whole: Exits, model_key: str, thresholds: Sequence[float], temperatures: Sequence[float]) -> Exits:
    """`whole` with its thresholds (S − 1,) and temperatures (S,); its pieces are known by the model that was cut."""
    whole.thresholds.copy_(torch.tensor(thresholds))
    for i, (piece, temperature) in enumerate(zip(whole.members, temperatures, strict=True)):
        piece.get_buffer("temperature").fill_(temperature)
        told = (model_key, *whole.layers, whole.confidence, i, temperature)
        identity.stamp(piece, identity.digest("piece", *told))
    return whole


def _fitted(whole: Exits, workload: Workload) -> list[Tensor]:
    """Heads (P + 1, K) for all pieces but the last, on examples of train."""
    at, heads = sample(len(workload.train), EXAMPLES), []
    state, targets = workload.train.take(at), workload.train.targets[at]
    for piece in list(whole.members)[:-1]:
        assert isinstance(piece, Piece)
        made = [piece.made(part) for part in state.split(EVALUATION_BATCH)]
        state = torch.cat([torch.cat(flat(states), dim=1) for states in made])
        x = torch.cat([piece.pool(states[0]) for states in made])  # type: ignore[misc]
        scale = x.square().mean().sqrt().clamp_min(1e-12)
        x = torch.cat([x / scale, torch.ones(len(x), 1)], dim=1)
        start = torch.zeros(x.shape[1], whole.classes)
        found = fit(x, targets, torch.ones(1, len(x), dtype=torch.bool), start, PULL, start[None])[0]
        heads.append(torch.cat([found[:-1] / scale, found[-1:]]))
    return heads


def _head(inputs: int, hidden: int, classes: int) -> nn.Module:
    """A linear layer, or two with ReLU between them, of zeros."""
    return nn.Sequential(head(inputs, hidden), nn.ReLU(), head(hidden, classes)) if hidden else head(inputs, classes)


def _bytes(heads: Sequence[Tensor]) -> int:
    return sum(found.nbytes for found in heads)
