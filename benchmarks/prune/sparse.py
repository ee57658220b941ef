"""How few weights will do: LeNet-300-100 and LeNet-5 on MNIST, pruned in rounds by the recipes in `recipes/`.

Source: Han et al., Learning both weights and connections, arXiv 1506.02626, Table 1 (12 times fewer weights).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

import modelopt_core as mo
from benchmarks import ledger
from benchmarks.checkpoints import trained
from benchmarks.paired import Pair, pair, right
from modelopt_core.prune import Prune

NETS, SEEDS = ("lenet300", "lenet5"), 5
RECIPES = Path(__file__).parent.parent / "recipes"
LEDGER = "prune-sparse"


def measure(net: str, seed: int) -> None:
    """One seed: its own baseline, the recipe's steps one after the other, each against the baseline on test."""
    workload, base = mo.workload("mnist"), trained(f"mnist/{net}", seed)
    recipe = mo.from_json((RECIPES / f"{net}-sparse.json").read_text())
    before, weights, held_out = right(base, workload), _weights(base), _error(base, workload)
    model, wall_s, cpu_s = base, time.perf_counter(), time.process_time()
    for step in recipe:
        assert isinstance(step, Prune)
        model = step.apply(model, workload, seed=seed)
        spent = {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}
        after = right(model, workload)
        found = pair(before, after)
        ledger.append(
            LEDGER,
            net=net,
            seed=seed,
            ratio=step.ratio,
            times=weights / _weights(model),
            baseline=float((~before).double().mean()),
            error=float((~after).double().mean()),
            val={"baseline": held_out, "error": _error(model, workload)},
            won=found.won,
            lost=found.lost,
            n=found.n,
            threads=torch.get_num_threads(),
            **spent,
        )


def run(arguments: list[str]) -> None:
    """What is not measured yet: everything, or one net (`lenet5`), or one seed of it (`lenet5 3`)."""
    nets = [name for name in NETS if name in arguments] or NETS
    seeds = [int(a) for a in arguments if a.isdigit()] or list(range(SEEDS))
    for net in nets:
        last = mo.from_json((RECIPES / f"{net}-sparse.json").read_text())[-1]
        for seed in seeds:
            if not ledger.rows(LEDGER, net=net, seed=seed, ratio=dict(last)["ratio"]):
                measure(net, seed)
                print(f"sparse {net} {seed}", flush=True)


def table() -> Iterator[str]:
    """Markdown: one line for every net and ratio, over the seeds that are there."""
    yield "| net | ratio | fewer weights | seeds | baseline's error | error | points | p | wall, s | CPU, s |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for net in NETS:
        for ratio in dict.fromkeys(row["ratio"] for row in ledger.rows(LEDGER, net=net)):
            rows = ledger.rows(LEDGER, net=net, ratio=ratio)
            pooled = sum((Pair(row["won"], row["lost"], row["n"]) for row in rows), Pair(0, 0, 0))
            mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("times", "baseline", "error")}
            most = {key: max(row[key] for row in rows) for key in ("wall_s", "cpu_s")}
            yield (
                f"| {net} | {ratio} | {mean['times']:.1f} × | {len(rows)} | {mean['baseline']:.2%} | "
                f"{mean['error']:.2%} | {-pooled.delta:+.2f} | {pooled.p:.2g} | {most['wall_s']:.0f} | "
                f"{most['cpu_s']:.0f} |"
            )


def _error(model: torch.nn.Module, workload: mo.Workload) -> float:
    """On val, which chose the recipe."""
    return float((~right(model, workload, "val")).double().mean())


def _weights(model: torch.nn.Module) -> int:
    """Parameters that are not zero, biases and all."""
    return sum(int(p.count_nonzero()) for p in model.parameters())
