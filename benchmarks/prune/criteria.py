"""Criteria against each other and against PyTorch: `python -m benchmarks.prune`, or only some models' scores:
`python -m benchmarks.prune digits/cnn`.

Prints markdown: masks equal to those of `torch.nn.utils.prune`; what gathering statistics and one setting never seen
cost; test scores of every criterion at equal ratio over several networks trained from scratch; where `hebbian` wins.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as distributions
from torch import nn
from torch.nn.utils import prune as torch_prune

import modelopt_core as mo
from benchmarks.machine import machine
from modelopt_core.cache import STORE
from modelopt_core.models import build
from modelopt_core.prune.stats import gather
from modelopt_core.train import evaluate, fit
from modelopt_core.zoo import ZOO

MODELS = {"digits/cnn": 40, "digits/mlp": 40, "mnist/lenet300": 5}  # epochs: enough to be good, few enough for a minute
SEEDS = 5
RATIOS = {"weight": (0.3, 0.5, 0.7, 0.9), "channel": (0.1, 0.3, 0.5)}
L3_MS = {"digits/cnn": 100, "digits/mlp": 100, "mnist/lenet300": 250, "mnist/lenet5": 1200}
MOVES = 12

Scores = dict[tuple[str, str, float, str], NDArray[np.float64]]  # criterion, granularity, ratio, recovery -> (SEEDS,)


def masks() -> str:
    """How many of l1's masks are exactly PyTorch's."""
    equal, tried = 0, 0
    for name, ratio, scope in product(L3_MS, (0.0, 0.001, 0.3, 0.5, 0.9, 0.999), ("layer", "global")):
        w, model, theirs = mo.workload(name.split("/")[0]), mo.baseline(*name.split("/")), mo.baseline(*name.split("/"))
        ours = mo.Prune(ratio=ratio, granularity="weight", scope=scope, recovery="none").apply(model, w)
        kinds = (nn.Linear, nn.Conv2d)
        parts = [(m, "weight") for m in theirs.modules() if isinstance(m, kinds)]
        if scope == "global":
            torch_prune.global_unstructured(parts, pruning_method=torch_prune.L1Unstructured, amount=ratio)
        else:
            for module, at in parts:
                torch_prune.l1_unstructured(module, at, amount=ratio)
        pairs = zip(parts, [m for m in ours.modules() if isinstance(m, kinds)], strict=True)
        equal += all(torch.equal(module.weight, mine.weight) for (module, _), mine in pairs)
        tried += 1
    return f"`l1` against `torch.nn.utils.prune`, layer and global: {equal} of {tried} networks equal in every weight."


def costs(name: str) -> Iterator[str]:
    """Rows: milliseconds of the first gathering, and of settings never seen after it."""
    w, model = mo.workload(name.split("/")[0]), mo.baseline(*name.split("/"))
    gather(model, w, ("pre", "joint", "grad", "square"))  # PyTorch's own first time
    for criterion, entry in mo.CRITERIA.items():
        if criterion == "bn_scale" and name != "digits/cnn":
            continue
        STORE.clear()
        mo.run((), [model], w)
        start = time.perf_counter()
        gather(model, w, entry["needs"])  # type: ignore[arg-type]
        first = (time.perf_counter() - start) * 1e3
        cells = []
        for granularity in ("weight", "channel"):
            times = []
            for move in range(MOVES if granularity in entry["granularity"] else 0):  # type: ignore[operator]
                step = mo.Prune(criterion=criterion, granularity=granularity, ratio=0.05 + 0.07 * move)
                start = time.perf_counter()
                mo.run((step,), [model], w)
                times.append((time.perf_counter() - start) * 1e3)
            cells.append(f"{np.median(times):.0f} / {np.percentile(times, 95):.0f}" if times else "")
        yield f"| {name} | {criterion} | {first:.0f} | {' | '.join(cells)} | ≤ {L3_MS[name]} |"


def trained(name: str) -> list[nn.Module]:
    """Networks of one architecture, each from its own seed."""
    recipe, w = ZOO[name], mo.workload(name.split("/")[0])
    return [
        fit(
            build(recipe.spec, seed),
            w,
            epochs=MODELS.get(name, recipe.epochs),
            lr=recipe.lr,
            batch_size=recipe.batch_size,
            weight_decay=recipe.weight_decay,
            augment=recipe.augment,
            seed=seed,
        )
        for seed in range(SEEDS)
    ]


def scores(name: str, pool: list[nn.Module]) -> Scores:
    """Test scores of every criterion at every ratio."""
    w, found = mo.workload(name.split("/")[0]), {}
    norms = any(isinstance(m, nn.BatchNorm2d) for m in pool[0].modules())
    for (criterion, entry), granularity in product(mo.CRITERIA.items(), RATIOS):
        if granularity not in entry["granularity"] or ("bn_scale" in entry["needs"] and not norms):  # type: ignore[operator]
            continue
        for ratio, recovery in product(RATIOS[granularity], ("none", "norms") if norms else ("none",)):
            step = mo.Prune(criterion=criterion, granularity=granularity, ratio=ratio, recovery=recovery)
            thin = [step.apply(model, w, seed=seed) for seed, model in enumerate(pool)]
            found[criterion, granularity, ratio, recovery] = np.array([evaluate(m, w, w.test)[0] for m in thin])
    return found


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """(mean, half width of Student's 95 % interval) over seeds."""
    half = distributions.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def table(name: str, granularity: str, found: Scores) -> Iterator[str]:
    """Criteria by ratio and recovery; below, hebbian's paired difference from l1 and from random."""
    columns = sorted({key[2:] for key in found if key[1] == granularity})
    yield f"\n**{name}, {granularity}s removed**: test score in %, mean ± 95 % interval over {SEEDS} seeds\n"
    yield "| criterion | " + " | ".join(f"{ratio:g} {recovery}" for ratio, recovery in columns) + " |"
    yield "|---|" + "--:|" * len(columns)
    for criterion in dict.fromkeys(key[0] for key in found if key[1] == granularity):
        cells = [interval(100 * found[criterion, granularity, *column]) for column in columns]
        label = f"**{criterion}**" if criterion == "hebbian" else criterion
        yield f"| {label} | " + " | ".join(f"{mean:.1f} ± {half:.1f}" for mean, half in cells) + " |"
    for other in ("l1", "random"):
        pairs = [100 * (found["hebbian", granularity, *c] - found[other, granularity, *c]) for c in columns]
        yield f"| *hebbian − {other}* | " + " | ".join(_verdict(*interval(p)) for p in pairs) + " |"


def _verdict(mean: float, half: float) -> str:
    word = "same" if abs(mean) <= half else "wins" if mean > 0 else "loses"
    return f"{mean:+.1f} ± {half:.1f} {word}"


def main(names: list[str]) -> None:
    """Print everything, or the scores of the named models only."""
    print(f"{machine()}\n", flush=True)
    if not names:
        torch.set_num_threads(2)  # as the app
        print(f"{masks()}\n\n| model | criterion | first gathering, ms | weight: median / p95 ms | ", end="")
        print("channel: median / p95 ms | L3 |\n|---|---|--:|--:|--:|--:|", flush=True)
        for name in L3_MS:
            for line in costs(name):
                print(line, flush=True)
    torch.set_num_threads(1)
    for name in names or MODELS:
        pool = trained(name)
        w = mo.workload(name.split("/")[0])
        mean, half = interval(100 * np.array([evaluate(model, w, w.test)[0] for model in pool]))
        print(f"\n{name}: {mean:.1f} ± {half:.1f} % before pruning.", flush=True)
        found = scores(name, pool)
        for granularity in RATIOS:
            for line in table(name, granularity, found):
                print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
