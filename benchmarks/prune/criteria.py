"""Every criterion at equal ratio, over networks trained from five seeds: test scores, hebbian's place among them, and
what is gained by choosing the criterion on val instead of taking `l1`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.checkpoints import trained
from benchmarks.paired import Pair, pair, right, told
from modelopt_core.steps.prune.contest import entrants
from modelopt_core.tasks.statistics import holm, verdict

LEDGER = "prune-criteria"
NETS, SEEDS = ("digits/cnn", "digits/mlp", "mnist/lenet300"), 5
RATIOS = {"weight": (0.3, 0.5, 0.7, 0.9), "channel": (0.1, 0.3, 0.5)}
NONE = Pair(0, 0, 0)

Setting = tuple[str, str, float, str]  # network, granularity, ratio, recovery
Cells = dict[Setting, dict[str, list[dict[str, Any]]]]  # setting -> criterion -> one cell a seed


def measure(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """All cells of one network: scores on val and test, and the pairs against l1 on test."""
    workload, model = mo.workload(name.split("/")[0]), trained(name, seed)
    norms = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for granularity, recovery in product(RATIOS, ("none", "norms") if norms else ("none",)):
        for ratio in RATIOS[granularity]:
            rival: Tensor | None = None
            for criterion in entrants(model, workload, mo.Prune(granularity=granularity)):  # l1 comes first
                step = mo.Prune(ratio=ratio, criterion=criterion, granularity=granularity, recovery=recovery)
                thin = step.apply(model, workload, seed=seed)
                test, val = right(thin, workload), float(right(thin, workload, "val").double().mean())
                rival = test if rival is None else rival
                found = pair(rival, test)
                yield {
                    "criterion": criterion, "granularity": granularity, "ratio": ratio, "recovery": recovery,
                    "val": val, "test": float(test.double().mean()), "won": found.won, "lost": found.lost,
                    "n": found.n,
                }  # fmt: skip


def run(arguments: list[str]) -> None:
    """What is not measured yet, of all networks or of those named."""
    for name, seed in product([name for name in NETS if name in arguments] or NETS, range(SEEDS)):
        if not ledger.rows(LEDGER, net=name, seed=seed):
            ledger.append(LEDGER, net=name, seed=seed, cells=list(measure(name, seed)))
            print(f"criteria {name} {seed}", flush=True)


def read() -> Cells:
    """All rows by setting and criterion, seeds in order."""
    found: Cells = {}
    for row in sorted(ledger.rows(LEDGER), key=lambda row: (NETS.index(row["net"]), row["seed"])):
        for cell in row["cells"]:
            setting = (row["net"], cell["granularity"], cell["ratio"], cell["recovery"])
            found.setdefault(setting, {}).setdefault(cell["criterion"], []).append(cell)
    return found


def table() -> Iterator[str]:
    """Markdown: the chooser, then every criterion."""
    yield from _chosen(read())
    for name, granularity in product(NETS, RATIOS):
        yield from _scores(name, granularity, {k: v for k, v in read().items() if k[:2] == (name, granularity)})


def _chosen(cells: Cells) -> Iterator[str]:
    """The criterion that is best on val, per network, seed and setting, against l1 on test."""
    lines, pooled, names = [], {}, {}
    for setting, by in cells.items():
        seeds = range(len(by["l1"]))
        picks = [max(by, key=lambda name, seed=seed: (by[name][seed]["val"], name == "l1")) for seed in seeds]
        got = [by[pick][seed] for seed, pick in enumerate(picks)]
        pooled[setting] = sum((Pair(c["won"], c["lost"], c["n"]) for c in got), NONE)
        names[setting] = ", ".join(picks)
    clear = dict(zip(pooled, holm([p.p for p in pooled.values()]), strict=True))
    for setting, found in pooled.items():
        word = verdict(found.p, found.delta) if clear[setting] else ""
        lines.append(
            f"| {' | '.join(map(str, setting))} | {names[setting]} | {found.won} : {found.lost} | {found.delta:+.2f} | "
            f"{told(found.p)} | {word} |"
        )
    total = sum(pooled.values(), NONE)
    yield (
        f"\nThe criterion chosen on val against `l1`, all cells pooled, on test: {total.delta:+.2f} points, "
        f"won {total.won:,}, lost {total.lost:,} of {total.n:,} answers, McNemar p {told(total.p)}. Cells share test "
        f"examples, so that p is surer than it should be; cell by cell, after Holm, {sum(clear.values())} of "
        f"{len(clear)} differ, {sum(clear[s] and found.delta < 0 for s, found in pooled.items())} for the worse.\n"
    )
    yield "| net | removed | ratio | then | chosen, by seed | won : lost | points | p | after Holm |"
    yield "|---|---|--:|---|---|--:|--:|--:|---|"
    yield from lines


def _scores(name: str, granularity: str, cells: Cells) -> Iterator[str]:
    """Criteria by ratio and recovery; below, hebbian's paired difference from l1 and from random."""
    settings = sorted(cells, key=lambda s: s[2:])
    if not settings:
        return
    seeds = len(cells[settings[0]]["l1"])
    yield f"\n**{name}, {granularity}s removed**: test score in %, mean ± 95 % interval over {seeds} seeds\n"
    yield "| criterion | " + " | ".join(f"{ratio:g} {recovery}" for _, _, ratio, recovery in settings) + " |"
    yield "|---|" + "--:|" * len(settings)
    tests = {s: {c: np.array([100 * x["test"] for x in found]) for c, found in cells[s].items()} for s in settings}
    for criterion in tests[settings[0]]:
        said = [interval(tests[s][criterion]) for s in settings]
        label = f"**{criterion}**" if criterion == "hebbian" else criterion
        yield f"| {label} | " + " | ".join(f"{mean:.1f} ± {half:.1f}" for mean, half in said) + " |"
    for other in ("l1", "random"):
        pairs = [tests[s]["hebbian"] - tests[s][other] for s in settings]
        yield f"| *hebbian − {other}* | " + " | ".join(_verdict(*interval(p)) for p in pairs) + " |"


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """(mean, half width of Student's 95 % interval) over seeds."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    half = distributions.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def _verdict(mean: float, half: float) -> str:
    word = "same" if abs(mean) <= half else "wins" if mean > 0 else "loses"
    return f"{mean:+.1f} ± {half:.1f} {word}"
