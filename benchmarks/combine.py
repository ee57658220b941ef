"""Several models as one, measured: `python -m benchmarks.combine`.

Prints markdown: weights against equal and greedy ones, how fast the sliders' arithmetic is, a cascade against its
largest model, five small members against the best of them and against one large model, calibration before and after.
Whatever is chosen is chosen on val; what is reported is test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats as distributions
from sklearn.metrics import log_loss as sklearn_log_loss
from torch import Tensor, nn

import modelopt_core as mo
from benchmarks.machine import machine
from modelopt_core import codec, turns
from modelopt_core.calibration import ece, fit_temperature, tempered
from modelopt_core.cascade import best_thresholds, flow, front
from modelopt_core.ensemble import best_weights, diversity, greedy_weights
from modelopt_core.estimate import Z, mcnemar
from modelopt_core.layers import macs
from modelopt_core.measure import stacked
from modelopt_core.models import build
from modelopt_core.train import fit
from modelopt_core.workload import Workload
from modelopt_core.zoo import ZOO

MEMBERS = ("lenet300", "lenet300-1", "lenet300-2", "lenet300-3", "lenet300-4")
STAGES = ("mlp30", "lenet300", "mlp1200")
REPEATS, IMAGES, CHUNK = 50, 2_000, 50
ONE_SIDED = 1.6448536269514722  # the standard normal's 95 % point
SEEDS = 5


def milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> NDArray[np.float64]:
    """CPU time of one call on this one thread, after a first one that does not count. Nobody else's work is in it."""
    call()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return np.array(times) * 1e3


def told(times: NDArray[np.float64]) -> str:
    """Median and 95th percentile."""
    return f"{np.median(times):.2f} / {np.percentile(times, 95):.2f} ms"


def likely(said: Tensor, targets: Tensor) -> NDArray[np.float64]:
    """(M, N): the probability that each member gave the truth."""
    return said.gather(2, targets[None, :, None].expand(len(said), -1, 1))[:, :, 0].double().exp().numpy()


def independent_greedy(p: NDArray[np.float64], rounds: int = 50) -> NDArray[np.float64]:
    """Caruana's selection written again, from the paper, without our code: p (M, N) -> weights (M,)."""
    bag: list[int] = []
    best: tuple[float, list[int]] = (np.inf, [])
    for _ in range(rounds):
        losses = [-np.log(p[[*bag, m]].mean(0)).mean() for m in range(len(p))]
        bag.append(int(np.argmin(losses)))
        best = min(best, (min(losses), list(bag)), key=lambda pair: pair[0])
    return np.bincount(best[1], minlength=len(p)) / len(best[1])


def weights(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """Solved weights against equal and greedy ones: val chooses, test judges, scikit-learn computes the losses."""
    said = {split: stacked(pool, w, split) for split in ("val", "test")}
    truth = {split: w.split(split).targets for split in ("val", "test")}
    solved, ours = best_weights(said["val"], truth["val"]), greedy_weights(said["val"], truth["val"])
    rows = {
        "solved": np.array(solved.weights),
        "equal": np.full(len(pool), 1 / len(pool)),
        "greedy, written again": independent_greedy(likely(said["val"], truth["val"])),
        "greedy, ours": np.array(ours.weights),
    }
    yield "| weights | log loss on val | on test | test, minus solved | errors on test |\n|---|--:|--:|--:|--:|"
    losses = {name: -np.log(given @ likely(said["test"], truth["test"])) for name, given in rows.items()}
    for name, given in rows.items():
        mixed = {s: np.einsum("m,mnk->nk", given, said[s].double().exp().numpy()) for s in said}
        val, test = (sklearn_log_loss(truth[s].numpy(), mixed[s] / mixed[s].sum(1, keepdims=True)) for s in said)
        extra = losses[name] - losses["solved"]
        half = Z * extra.std(ddof=1) / np.sqrt(len(extra))
        errors = int((mixed["test"].argmax(1) != truth["test"].numpy()).sum())
        yield f"| {name} | {val:.6f} | {test:.6f} | {extra.mean():+.6f} ± {half:.6f} | {errors} |"
    times = milliseconds(lambda: best_weights(said["val"], truth["val"]))
    yield (
        f"\nOptimality gap of the solved weights: {solved.gap:.1e} nats. Solved for {len(pool)} members × "
        f"{len(truth['val']):,} examples in {told(times)} (median / p95; bar: 50 ms)."
    )
    found = diversity(said["test"].argmax(2), (said["test"].argmax(2) == truth["test"]).int())
    off = ~torch.eye(len(pool), dtype=torch.bool)
    yield (
        f"Diversity on test, mean of pairs: disagreement {found.disagreement[off].mean():.4f}, "
        f"Q {found.q[off].mean():.3f}, error correlation {found.correlation[off].mean():.3f}."
    )


def arithmetic(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """L5: what a slider costs on kept predictions."""
    said, truth = stacked(pool, w), w.val.targets
    given = torch.full((len(pool),), 1 / len(pool))
    sure, right = said.amax(2).exp(), (said.argmax(2) == truth).float()
    calls: dict[str, Callable[[], object]] = {
        **{f"rule {name}": lambda rule=rule: rule(said, given) for name, rule in mo.RULES.items()},
        "cascade, thresholds": lambda: flow(sure, right, (0.9,) * (len(pool) - 1)),
        "temperature, applied": lambda: tempered(said[0], 1.5),
        "temperature, fitted": lambda: fit_temperature(said[0], truth),
    }
    yield f"| slider, {len(pool)} × {len(truth):,} | median / p95 | bar |\n|---|--:|--:|"
    for name, call in calls.items():
        yield f"| {name} | {told(milliseconds(call))} | {'' if 'fitted' in name else '5 ms'} |"


def cascade(w: Workload, bits: int | None, cautious: bool) -> Iterator[str]:
    """A row: the cascade against its largest model.

    Its thresholds are the cheapest that score as that model on val; cautious, the cheapest of those that score best.
    """
    pool = [mo.baseline("mnist", name) for name in STAGES]
    if bits:
        pool = [mo.Quantize(bits=bits).apply(model, w) for model in pool]
    step, costs = mo.Cascade(confidence="margin"), [float(macs(model, w.example)) for model in pool]
    ones = (1.0,) * len(pool)
    sure = {split: step.sure(stacked(pool, w, split), ones) for split in ("val", "test")}
    right = {s: torch.stack([mo.predictions(m, w, s).scores for m in pool]) for s in ("val", "test")}
    goal = front(sure["val"], right["val"], costs)[-1].score if cautious else float(right["val"][-1].mean())
    chosen = best_thresholds(sure["val"], right["val"], costs, score=goal)
    happened = flow(sure["test"], right["test"], chosen.thresholds)
    change = (right["test"][-1] - happened.scores).double().numpy()  # 1: lost, −1: won
    more = change.sum()
    bound = more + ONE_SIDED * change.std(ddof=1) * np.sqrt(len(change))
    whole = mo.Cascade(confidence="margin", thresholds=chosen.thresholds).apply(pool, w)
    fast, slow, first = mo.compile(whole, w), mo.compile(pool[-1], w), mo.compile(whole.members[0], w)  # type: ignore[index]
    (wall, cpu), (_, ceiling) = ratios(slow, fast, w), ratios(slow, first, w)
    kind = f"{bits} bits" if bits else "float32"
    left = " / ".join(f"{n / len(change):.1%}" for n in happened.left)
    lost = [int(len(change) - scores.sum()) for scores in (right["test"][-1], happened.scores)]
    cells = [
        f"{kind}, {'best' if cautious else 'as the large model'}",
        ", ".join(f"{t:.4f}" for t in chosen.thresholds),
        left,
        *map(str, lost),
        f"{bound:+.1f}",
        f"{costs[-1] / happened.cost(costs):.1f}",
        *("{1:.2f} ({0:.2f} – {2:.2f})".format(*np.percentile(found, [25, 50, 75])) for found in (wall, cpu, ceiling)),
    ]
    yield f"| {' | '.join(cells)} |"


def ratios(
    slow: Callable[[Tensor], Tensor], fast: Callable[[Tensor], Tensor], w: Workload
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slow over fast, one test image at a time, in turns of CHUNK images each: wall clock, and CPU time."""
    images = w.test.inputs[:IMAGES].split(1)

    def seconds(call: Callable[[Tensor], Tensor], part: Sequence[Tensor]) -> NDArray[np.float64]:
        start = np.array([time.perf_counter(), time.thread_time()])
        for one in part:
            call(one)
        return np.array([time.perf_counter(), time.thread_time()]) - start

    found = []
    with turns.stopwatch():
        for at in range(0, len(images), CHUNK):
            part = images[at : at + CHUNK]
            found.append(seconds(slow, part) / seconds(fast, part))
    wall, cpu = np.array(found).T
    return wall, cpu


def members(w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """Five members against the best of them; the same at 4 bits against one large model of as many bytes."""
    truth, best = w.test.targets, max(pool, key=lambda m: float(mo.predictions(m, w).scores.mean()))
    four = [mo.Quantize(bits=4).apply(model, w) for model in pool]
    large = mo.baseline("mnist", "mlp1200")
    rows = {
        "best member on val": best,
        "five, equal weights": mo.Ensemble().apply(pool, w),
        "five at 4 bits": mo.Ensemble().apply(four, w),
        **{f"1200-1200 at {b} bits": mo.Quantize(bits=b).apply(large, w) for b in (2, 3, 4)},
        "1200-1200": large,
    }
    base = mo.predictions(best, w, "test")
    yield "| model | bytes | log loss on test | minus best member | errors | won, lost, p against best member |"
    yield "|---|--:|--:|--:|--:|---|"
    for name, model in rows.items():
        found = mo.predictions(model, w, "test")
        loss, was = (
            -p.outputs.log_probabilities.gather(1, truth[:, None])[:, 0].double().numpy() for p in (found, base)
        )
        extra = loss - was
        flips = mcnemar(base.scores.numpy(), found.scores.numpy())
        yield (
            f"| {name} | {codec.sizes(model).size_bytes:,} | {loss.mean():.4f} | {extra.mean():+.4f} ± "
            f"{Z * extra.std(ddof=1) / np.sqrt(len(extra)):.4f} | {int(len(truth) - found.scores.sum())} | "
            f"{flips.won}, {flips.lost}, p = {flips.p:.3f} |"
        )


def calibration_rows(name: str, w: Workload, pool: Sequence[nn.Module]) -> Iterator[str]:
    """ECE on test before and after a temperature fitted on val, of models as they are and compressed."""
    variants: dict[str, Callable[[nn.Module], nn.Module]] = {
        "as it is": lambda model: model,
        "4 bits": lambda model: mo.Quantize(bits=4).apply(model, w),
        "90 % pruned": lambda model: mo.Prune(ratio=0.9, granularity="weight").apply(model, w),
    }
    for how, make in variants.items():
        pairs = np.array([_ece(w, make(model)) for model in pool])  # (seeds, 3)
        before, after, temperature = pairs.mean(0)
        spread = ""
        if len(pool) > 1:
            gain = pairs[:, 0] - pairs[:, 1]
            half = distributions.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            spread = f"{100 * gain.mean():+.2f} ± {100 * half:.2f}"
        lower = "" if before <= 0.01 else "yes" if after < before else "no"
        yield f"| {name} | {how} | {before:.2%} | {after:.2%} | {temperature:.2f} | {spread} | {lower} |"


def _ece(w: Workload, model: nn.Module) -> tuple[float, float, float]:
    val, test = (mo.predictions(model, w, split).outputs.log_probabilities for split in ("val", "test"))
    temperature = fit_temperature(val, w.val.targets)
    right = (test.argmax(1) == w.test.targets).float()
    before, after = (ece(tempered(test, t).amax(1).exp(), right) for t in (1.0, temperature))
    return before, after, temperature


def trained() -> list[nn.Module]:
    """The CNN recipe of the digits, from five seeds."""
    recipe, w = ZOO["digits/cnn"], mo.workload("digits")
    how = {"epochs": recipe.epochs, "lr": recipe.lr, "weight_decay": recipe.weight_decay, "augment": recipe.augment}
    return [fit(build(recipe.spec, seed), w, seed=seed, **how) for seed in range(SEEDS)]  # type: ignore[arg-type]


def main() -> None:
    """Print everything."""
    torch.set_num_threads(1)
    w = mo.workload("mnist")
    pool = [mo.baseline("mnist", name) for name in MEMBERS]
    print(f"{machine()}, one thread\n\n## Weights: five seeds of 300-100 on MNIST\n", flush=True)
    for line in weights(w, pool):
        print(line, flush=True)
    print("\n## The sliders' arithmetic\n")
    for line in arithmetic(w, pool):
        print(line, flush=True)
    print(
        f"\n## Cascade {' → '.join(STAGES)}, batch 1\n\nThresholds on the margin, the cheapest of those that score on "
        "val as the large model, or best. Bound: one-sided 95 % limit of the errors that it makes more (bar: 10). "
        f"Ratios are of the large model alone: median (quartiles) of turns of {CHUNK} test images; ceiling: if the "
        "first stage answered everything, CPU time. ONNX Runtime, one thread. Where other programs run, the CPU time "
        "tells what the wall clock of an idle machine would.\n"
    )
    heads = ("weights, score on val", "thresholds", "leave at", "errors, large", "errors, cascade", "bound", "MACs ×",
             "wall clock ×", "CPU time ×", "ceiling ×")  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for bits, cautious in product((None, 8), (False, True)):
        for line in cascade(w, bits, cautious):
            print(line, flush=True)
    print("\n## Five small ones, one large one\n")
    for line in members(w, pool):
        print(line, flush=True)
    print("\n## Calibration: ECE on test, 15 bins of equal mass; the temperature is fitted on val\n")
    print("| model | variant | ECE | at the temperature | temperature | points gained, mean of seeds | lower |")
    print("|---|---|--:|--:|--:|--:|---|", flush=True)
    for name in ("mnist/lenet5", "mnist/lenet300", "mnist/mlp30", "mnist/mlp1200", "mnist/article", "digits/mlp",
                 "docstrings/bag", "docstrings/textcnn"):  # fmt: skip
        for line in calibration_rows(name, mo.workload(name.split("/")[0]), [mo.baseline(*name.split("/"))]):
            print(line, flush=True)
    for line in calibration_rows(f"digits/cnn, {SEEDS} seeds", mo.workload("digits"), trained()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
