"""Channels cut by us and by Torch-Pruning: the same checkpoint and criterion, equal multiply-accumulates, the same
recovery, the same test examples.

Torch-Pruning runs as it comes, without hints; its score of a group is a mean over the layers of the group. Both sides
get the same checkpoint and the same 1,024 training examples; each side's ratio is searched for so that the
multiply-accumulates meet. `random` is left out: two draws have nothing to compare.

Two of Torch-Pruning 1.6.1's criteria are not what their papers say. `accumulate_grad` of its Hessian keeps the last
example's gradient only; here it gets the sum that it asks for. Its FPGM takes distances between squared weights, and is
left as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from itertools import product
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.checkpoints import trained
from benchmarks.paired import Crossed, right, told
from modelopt_core.machine.events import silent
from modelopt_core.models import identity
from modelopt_core.steps.prune.stats import EXAMPLES
from modelopt_core.structure.layer_inputs import sample
from modelopt_core.structure.layer_table import macs
from modelopt_core.tasks.statistics import holm, verdict
from modelopt_core.training.loop import fit
from modelopt_core.training.norms import reestimate_norms
from modelopt_core.workloads.workload import Workload

LEDGER = "prune-peers"
NETS = {  # seeds of the checkpoints that report; what a channel's score is was chosen with others
    "digits/cnn": range(10, 22),
    "docstrings/textcnn": range(10, 22),
    "mnist/lenet5": range(1, 5),
    "mnist/article": range(10, 13),
}
THEIRS: dict[str, Callable[[], Any]] = {
    "l1": partial(tp.importance.GroupMagnitudeImportance, p=1),
    "l2": partial(tp.importance.GroupMagnitudeImportance, p=2),
    "taylor": tp.importance.GroupTaylorImportance,
    "fisher": tp.importance.GroupHessianImportance,
    "fpgm": tp.importance.FPGMImportance,
    "lamp": tp.importance.LAMPImportance,
    "bn_scale": tp.importance.BNScaleImportance,
}
LEFT = (0.5, 0.25, 0.1)  # share of the multiply-accumulates that is to be left
RECOVERIES = ("norms", "fine-tuned")
TUNED, EPOCHS = ("digits/cnn",), 3  # the second recovery in cells of their own: the cheap network only
HALVINGS = 8
TOLERANCE = 0.02  # between the two sides' multiply-accumulates
NEARNESS = 0.3  # how much it counts to be near the aim, beside being near each other
CHOSEN_WITH = "0 to 7 (digits), 0 to 3 (docstrings), 0 and 1 (article) and 0 (LeNet-5)"
Setting = tuple[str, float, str]  # scope, share of the multiply-accumulates left, recovery
Answers = tuple[Tensor, Tensor, tuple[int, int]]  # (n,) bool ours and theirs, and both sides' multiply-accumulates
Seen = dict[tuple[object, ...], dict[int, float]]
Prepared = tuple[nn.Module, Any]  # a network with its gradients, and Torch-Pruning's importance


def theirs(model: nn.Module, workload: Workload, criterion: str, seed: int) -> Prepared:
    """A copy with the gradients that the importance asks for, of the examples that we look at, and the importance."""
    model, importance = copy.deepcopy(model), THEIRS[criterion]()
    model.requires_grad_(True)
    at = sample(len(workload.train), EXAMPLES, seed)
    inputs, targets = workload.train.inputs[at], workload.train.targets[at]
    if criterion == "taylor":
        workload.loss(workload.forward(model, inputs), targets).backward()
    if criterion == "fisher":
        importance.zero_grad()
        for x, y in zip(inputs.split(1), targets.split(1), strict=True):
            gradients = torch.autograd.grad(workload.loss(workload.forward(model, x), y), list(model.parameters()))
            for parameter, slope in zip(model.parameters(), gradients, strict=True):
                importance._accu_grad[parameter] = importance._accu_grad.get(parameter, 0) + slope.square()
                importance._counter[parameter] = len(at)
                parameter.grad = slope
    return model, importance


def cut_by_them(prepared: Prepared, example: Tensor, ratio: float, scope: str, seed: int) -> nn.Module:
    """Torch-Pruning's answer to one ratio."""
    model, importance = copy.deepcopy(prepared)
    for parameter, given in zip(model.parameters(), prepared[0].parameters(), strict=True):
        parameter.grad = None if given.grad is None else given.grad.clone()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tp.pruner.BasePruner(
            model, example, importance, global_pruning=scope == "global", pruning_ratio=ratio, ignored_layers=[last]
        ).step()
    return model.zero_grad(set_to_none=True) or model.eval()


def cut_by_us(model: nn.Module, workload: Workload, criterion: str, ratio: float, scope: str, seed: int) -> nn.Module:
    """Our answer to one ratio, not kept."""
    step = mo.Prune(ratio=ratio, criterion=criterion, scope=scope, recovery="none")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return step.transform(identity.clone(model), workload, generator, silent).eval()


def visited(cut: Callable[[float], nn.Module], example: Tensor, aim: int) -> dict[int, float]:
    """Multiply-accumulates -> ratio, of the networks met on the way to `aim`."""
    low, high, found = 0.0, 1.0, {}
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        count = macs(cut(ratio), example)
        found[count] = ratio
        low, high = (ratio, high) if count > aim else (low, ratio)
    return found


def meeting(ours: dict[int, float], others: dict[int, float], aim: int) -> tuple[int, int]:
    """The two sides' multiply-accumulates that differ least; of such pairs, the nearest to `aim`."""

    def apart(counts: tuple[int, int]) -> float:
        return abs(math.log(counts[0] / counts[1])) + NEARNESS * abs(math.log(counts[0] / aim))

    return min(product(ours, others), key=apart)


def recovered(model: nn.Module, workload: Workload, recovery: str, seed: int) -> nn.Module:
    """What follows on both sides."""
    model = reestimate_norms(model, workload)
    return fit(model, workload, epochs=EPOCHS, lr=1e-3, seed=seed) if recovery == "fine-tuned" else model


def answered(name: str, seed: int, criterion: str, seen: Seen) -> Iterator[tuple[Setting, Answers]]:
    """All cells of one checkpoint. seen: by layer, which ratios lead where is no matter of scores, and found once."""
    workload, model = mo.workload(name.split("/")[0]), trained(name, seed)
    example, whole = workload.example, macs(model, workload.example)
    cuts = (
        partial(cut_by_us, model, workload, criterion, seed=seed),
        partial(cut_by_them, theirs(model, workload, criterion, seed), example, seed=seed),
    )
    for scope, left in product(("layer", "global"), LEFT):
        aim, ways = round(left * whole), []
        for side, cut in enumerate(cuts):
            key = (name, scope, left, criterion == "bn_scale", side)
            ways.append(seen.get(key) or visited(partial(cut, scope=scope), example, aim))
            if scope == "layer":
                seen[key] = ways[-1]
        met = meeting(*ways, aim)
        ours, other = (cut(way[count], scope=scope) for cut, way, count in zip(cuts, ways, met, strict=True))
        for how in RECOVERIES[: 1 + (name in TUNED)]:
            after = right(recovered(ours, workload, how, seed), workload)
            before = after if _same(ours, other) else right(recovered(other, workload, how, seed), workload)
            yield (scope, left, how), (after, before, met)


def measure(name: str, criterion: str, seen: Seen) -> Iterator[dict[str, object]]:
    """All cells of one network and criterion, over its checkpoints."""
    cells: dict[Setting, list[Answers]] = {}
    for seed in NETS[name]:
        for setting, answers in answered(name, seed, criterion, seen):
            cells.setdefault(setting, []).append(answers)
    for (scope, left, how), found in cells.items():
        ours, theirs, counts = zip(*found, strict=True)
        yield {
            "scope": scope, "left": left, "recovery": how, "macs": counts,
            "ours": [float(x.double().mean()) for x in ours], "theirs": [float(x.double().mean()) for x in theirs],
            **asdict(Crossed.of([a.long() - b.long() for a, b in zip(ours, theirs, strict=True)])),
        }  # fmt: skip


def run(arguments: list[str]) -> None:
    """What is not measured yet, of all networks or of those named."""
    seen: Seen = {}
    for name in [name for name in NETS if name in arguments] or NETS:
        normed = any(isinstance(m, nn.BatchNorm2d) for m in trained(name, NETS[name][0]).modules())
        for criterion in THEIRS:
            if (normed or criterion != "bn_scale") and not ledger.rows(LEDGER, net=name, criterion=criterion):
                cells = list(measure(name, criterion, seen))
                peer = f"torch-pruning {metadata.version('torch-pruning')}"
                ledger.append(LEDGER, net=name, criterion=criterion, seeds=[*NETS[name]], peer=peer, cells=cells)
                print(f"peers {name} {criterion}", flush=True)


def table() -> Iterator[str]:
    """Markdown: one line for every cell, over all checkpoints; the verdict after Holm over all cells."""
    cells = [
        Cell((row["net"], row["criterion"], c["scope"], f"{c['left']:g}", c["recovery"]), c)
        for row in ledger.rows(LEDGER)
        for c in row["cells"]
    ]
    judged = [cell for cell in cells if cell.apart <= TOLERANCE]
    differ = [cell for cell in judged if cell.crossed.pair.won + cell.crossed.pair.lost]
    crossed = [cell.crossed for cell in differ]
    words = dict(zip((c.key for c in differ), verdicts([(c.p, c.pair.delta) for c in crossed]), strict=True))
    given = verdicts([(c.pair.p, c.pair.delta) for c in crossed])
    better, worse = ([*words.values()].count(word) for word in ("better", "worse"))
    lost = "; ".join(" ".join(c.key) for c, word in zip(differ, given, strict=True) if word == "worse")
    yield f"""\
{len(judged)} cells at equal multiply-accumulates (within {TOLERANCE:.0%}). In {len(judged) - len(differ)} both sides
give the same answers in every checkpoint. Of the other {len(differ)}, {better} are significantly better than
Torch-Pruning and {worse} worse, after Holm over these; in half of them a difference of
{np.median([c.interval[1] for c in crossed]):.1f} points would show at p = 0.05 before Holm. In
{len(cells) - len(judged)} more no ratios were found that meet: shown, not judged.

**Why so many are equal.** Both follow one rule, that of DepGraph: all weights that go with a channel count. What is
left are roundings of one channel, an embedding, whose channels Torch-Pruning leaves alone, and `fpgm`, where
Torch-Pruning takes distances between squared weights: nearer to a magnitude, and on networks without norms at times
better. The three or four checkpoints of the MNIST networks show large differences only.

**The unit is the checkpoint.** A cell is the mean difference over networks trained from several seeds, ± its 95 %
interval; its error is clustered by checkpoint and by test example (Cameron, Gelbach and Miller 2011), so that it speaks
of other networks, too. `p here` is McNemar's over all answers, as if these networks were the only ones: by it
{given.count("better")} cells are better and {given.count("worse")} worse after Holm ({lost}).

**Blind.** What a channel's score is was chosen on val, with checkpoints that are not in this table:
seeds {CHOSEN_WITH}.
The docstrings network was taken from 6 to 12 checkpoints after a first table, for narrower intervals.
"""
    yield "| net | criterion | scope | MACs left | then | seeds | MACs | ours | theirs | points | p | p here | |"
    yield "|---|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|---|"
    for cell in cells:
        crossed, word = cell.crossed, words.get(cell.key, "" if cell in judged else "MACs differ")
        mean, half = crossed.interval
        yield (
            f"| {' | '.join(cell.key)} | {len(crossed.won)} | {cell.more:.3f} | {np.mean(cell.row['ours']):.1%} | "
            f"{np.mean(cell.row['theirs']):.1%} | {mean:+.1f} ± {half:.1f} | {told(crossed.p)} | "
            f"{told(crossed.pair.p)} | {'**worse**' if word == 'worse' else word} |"
        )


@dataclass(frozen=True)
class Cell:
    """key: net, criterion, scope, MACs left, recovery; row: as it was measured."""

    key: tuple[str, ...]
    row: dict[str, Any]

    @property
    def crossed(self) -> Crossed:
        """The answers of both sides, over the checkpoints."""
        return Crossed(tuple(self.row["won"]), tuple(self.row["lost"]), self.row["common"], self.row["n"])

    @property
    def more(self) -> float:
        """Our multiply-accumulates as a multiple of theirs, over the checkpoints."""
        ours, theirs = np.sum(self.row["macs"], axis=0)
        return float(ours / theirs)

    @property
    def apart(self) -> float:
        """How far the two sides' multiply-accumulates are apart in a checkpoint, on average."""
        ours, theirs = np.transpose(self.row["macs"])
        return float(np.abs(ours / theirs - 1).mean())


def verdicts(found: list[tuple[float, float]]) -> list[str]:
    """(p, difference) of every cell -> better, worse, or empty, after Holm."""
    clear = holm([p for p, _ in found])
    return [verdict(p, delta) if sure else "" for (p, delta), sure in zip(found, clear, strict=True)]


def _same(ours: nn.Module, other: nn.Module) -> bool:
    """Both sides kept the same channels."""
    mine, others = ours.state_dict(), other.state_dict()
    return all(mine[k].shape == others[k].shape and torch.equal(mine[k], others[k]) for k in mine)
