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
from benchmarks.checkpoints import kept, trained
from benchmarks.paired import Pair, pair, right, told
from modelopt_core.machine.digest import digest
from modelopt_core.models import identity
from modelopt_core.steps.prune import Prune

NETS, SEEDS = ("lenet300", "lenet5"), 5
RECIPES = Path(__file__).parent.parent / "recipes"
LEDGER = "prune-sparse"


def measure(net: str, seed: int, at: int) -> None:
    """One seed: its own baseline, the recipe up to its step `at`, against the baseline on test."""
    workload, base = mo.workload("mnist"), trained(f"mnist/{net}", seed)
    step = recipe(net)[at]
    model = pruned(net, seed, at - 1)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    model = pruned(net, seed, at)
    earlier = [ledger.rows(LEDGER, net=net, seed=seed, ratio=s.ratio)[0] for s in recipe(net)[:at]]
    before, after = right(base, workload), right(model, workload)
    found = pair(before, after)
    ledger.append(
        LEDGER,
        net=net,
        seed=seed,
        ratio=step.ratio,
        times=_weights(base) / _weights(model),
        baseline=float((~before).double().mean()),
        error=float((~after).double().mean()),
        val={"baseline": _error(base, workload), "error": _error(model, workload)},
        won=found.won,
        lost=found.lost,
        n=found.n,
        threads=torch.get_num_threads(),
        wall_s=time.perf_counter() - wall_s + (earlier[-1]["wall_s"] if earlier else 0),
        cpu_s=time.process_time() - cpu_s + (earlier[-1]["cpu_s"] if earlier else 0),
    )


def recipe(net: str) -> list[Prune]:
    """The steps of `recipes/<net>-sparse.json`, which `modelopt run` takes as well."""
    steps = mo.from_json((RECIPES / f"{net}-sparse.json").read_text())
    return [step for step in steps if isinstance(step, Prune)]


def pruned(net: str, seed: int, at: int) -> torch.nn.Module:
    """The network after the recipe's step `at` (−1: the baseline), from the cache or made now."""
    base = trained(f"mnist/{net}", seed)
    if at < 0:
        return base
    key = digest(mo.to_json(recipe(net)[: at + 1]), identity.key(base), torch.__version__)[:16]
    return kept(
        f"{net}-sparse-{seed}-{at}-{key}",
        base,
        lambda: recipe(net)[at].apply(pruned(net, seed, at - 1), mo.workload("mnist"), seed=seed),
    )


def run(arguments: list[str]) -> None:
    """What is not measured yet: everything, or one net (`lenet5`), or one seed of it (`lenet5 3`).

    All seeds of one step before the next step.
    """
    nets = [name for name in NETS if name in arguments] or NETS
    seeds = [int(a) for a in arguments if a.isdigit()] or list(range(SEEDS))
    for net in nets:
        for at, step in enumerate(recipe(net)):
            for seed in seeds:
                if not ledger.rows(LEDGER, net=net, seed=seed, ratio=step.ratio):
                    measure(net, seed, at)
                    print(f"sparse {net} {seed} {step.ratio}", flush=True)


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
                f"{mean['error']:.2%} | {-pooled.delta:+.2f} | {told(pooled.p)} | {most['wall_s']:.0f} | "
                f"{most['cpu_s']:.0f} |"
            )


def _error(model: torch.nn.Module, workload: mo.Workload) -> float:
    """On val, which chose the recipe."""
    return float((~right(model, workload, "val")).double().mean())


def _weights(model: torch.nn.Module) -> int:
    """Parameters that are not zero, biases and all."""
    return sum(int(p.count_nonzero()) for p in model.parameters())
