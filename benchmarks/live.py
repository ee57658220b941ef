"""The live bars, core part: what one move of a slider costs. `python -m benchmarks.live`, on an idle machine.

`python -m benchmarks.live criteria` times every pruning criterion instead: the first gathering of what it looks at, and
settings never seen after it; `python -m benchmarks.live observers` every observer and rounding of quantization.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime
import torch

import modelopt_core as mo
from benchmarks.machine import HEADER, machine, row
from modelopt_core.machine import cores
from modelopt_core.machine.cache import STORE
from modelopt_core.measuring.measurement import PREDICT_THREADS
from modelopt_core.models import identity
from modelopt_core.runtime import onnx_export
from modelopt_core.runtime.inference import predict
from modelopt_core.steps.prune.contest import entrants
from modelopt_core.steps.prune.stats import SUMS, gather
from modelopt_core.studies.background import Sweeper
from modelopt_core.tasks.statistics import mean_interval

MOVES = 30
SPIN_S = 0.1  # the plain session's idle thread spins for a while after a run; nobody is timed beside it
LIMITS = {
    ("digits", "cnn"): 100,
    ("digits", "mlp"): 100,
    ("mnist", "lenet300"): 250,
    ("mnist", "lenet5"): 1200,
    ("docstrings", "bag"): 0,
    ("docstrings", "textcnn"): 0,
}


def settings(seed: int) -> Iterator[mo.Transform]:
    """Settings as a person would try them, none twice: both techniques, all granularities."""
    ratios = np.random.default_rng(seed).permutation(np.arange(1, 99))
    for i in range(MOVES):
        ratio = float(ratios[i]) / 100
        yield (
            mo.Prune(ratio=ratio, granularity="channel"),
            mo.Prune(ratio=ratio, granularity="weight"),
            mo.Quantize(bits=1 + i // 3 % 8, per=("tensor", "channel")[i // 24], scheme=("symmetric", "affine")[i % 2]),
        )[i % 3]


def clock(work: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def move(step: mo.Transform, model: torch.nn.Module, w: mo.Workload) -> None:
    """What a released slider asks for."""
    with cores.asking():
        mo.run((step,), [model], w)


def unseen_and_again(w: mo.Workload, model: torch.nn.Module, limit: int, name: str) -> Iterator[str]:
    """L3 on an idle machine and beside a background grid; L4 the same setting again."""
    goal = f"p95 ≤ {limit}" if limit else "none set"
    STORE.clear()
    mo.run((), [model], w)
    steps = list(settings(0))
    yield row("L3", f"{name}: a setting never seen", [clock(lambda s=s: move(s, model, w)) for s in steps], goal)
    yield row("L4", f"{name}: the same setting again", [clock(lambda s=s: move(s, model, w)) for s in steps], "≤ 5")
    STORE.clear()
    mo.run((), [model], w)
    grid = Sweeper().request(name, 100, lambda: mo.curve(mo.Prune(criterion="random"), "ratio", model, w, points=100))
    times = []
    for step in steps:
        time.sleep(0.2)  # a person thinks; the grid goes on
        times.append(clock(lambda s=step: move(s, model, w)))
    yield row("L3", f"{name}: the same beside a background grid ({len(grid.points)} points)", times, "reported")
    grid.done = True


def criteria(w: mo.Workload, model: torch.nn.Module, limit: int, name: str) -> Iterator[str]:
    """L3 for every criterion that applies, both kinds of granularity in turn, and what it gathers first."""
    gather(model, w, ("pre", "joint", "grad", "square"))  # PyTorch's own first time
    for criterion in entrants(model, w, mo.Prune()):
        entry = mo.CRITERIA[criterion]
        kinds = [g for g in ("channel", "weight") if g in entry["granularity"]]  # type: ignore[operator]
        STORE.clear()
        mo.run((), [model], w)
        if any(need in SUMS for need in entry["needs"]):  # type: ignore[attr-defined]
            first = clock(lambda needs=entry["needs"]: gather(model, w, needs))
            yield row("", f"{name}, {criterion}: gathered once", [first], "reported")
        ratios = np.random.default_rng(0).permutation(np.arange(1, 99))[:MOVES] / 100
        steps = [
            mo.Prune(ratio=float(r), criterion=criterion, granularity=kinds[i % len(kinds)])
            for i, r in enumerate(ratios)
        ]
        times = [clock(lambda s=s: move(s, model, w)) for s in steps]
        yield row("L3", f"{name}, {criterion}: a setting never seen", times, f"p95 ≤ {limit}")


def observers(w: mo.Workload, model: torch.nn.Module, limit: int, name: str) -> Iterator[str]:
    """L3 and L4 for every observer, to the nearest point, and for every other rounding that does not last."""
    roundings = [rounding for rounding in mo.ROUNDINGS if not mo.Quantize(rounding=rounding).lasts(w)]
    pairs = [(o, "nearest") for o in mo.OBSERVERS] + [("absmax", r) for r in roundings if r != "nearest"]
    for observer, rounding in pairs:
        STORE.clear()
        mo.run((), [model], w)
        steps = [
            mo.Quantize(bits=bits, scheme=scheme, per=per, observer=observer, rounding=rounding)  # type: ignore[arg-type]
            for bits in range(1, 9)
            for scheme in ("symmetric", "affine")
            for per in ("tensor", "channel")
        ][:MOVES]
        first, again = ([clock(lambda s=s: move(s, model, w)) for s in steps] for _ in range(2))
        yield row("L3", f"{name}, {observer}, {rounding}: a setting never seen", first, f"p95 ≤ {limit}")
        yield row("L4", f"{name}, {observer}, {rounding}: the same setting again", again, "≤ 5")


def combining(w: mo.Workload, model: torch.nn.Module) -> str:
    """L5: five members, 10,000 examples, new weights: score with its interval from kept predictions."""
    members = [mo.Quantize(bits=b).apply(model, w) for b in (3, 4, 5, 6, 7)]
    kept = torch.stack([mo.predictions(m, w).outputs.log_probabilities for m in members])  # (5, n, K)
    draw = np.random.default_rng(0)

    def reweight() -> None:
        weights = torch.from_numpy(draw.dirichlet(np.ones(5)).astype(np.float32))
        mixed = mo.Outputs(torch.einsum("m,mnk->nk", weights, kept))
        mean_interval(w.example_scores(mixed, w.val.targets).numpy())

    return row(
        "L5",
        f"new weights for 5 kept members, {kept.shape[1]:,} examples",
        [clock(reweight) for _ in range(100)],
        "≤ 5",
    )


def against_onnx_runtime(w: mo.Workload, model: torch.nn.Module, name: str) -> str:
    """Evaluation of the whole val split against a plain session on the same graph, batch and threads, interleaved."""
    ready = mo.compile(model, w)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = PREDICT_THREADS
    plain = onnxruntime.InferenceSession(
        onnx_export.onnx_bytes(model, w.example), options, providers=["CPUExecutionProvider"]
    )
    inputs = w.val.inputs

    def theirs() -> None:
        for part in inputs.split(250):
            plain.run(None, {onnx_export.INPUT: part.numpy()})

    def ours() -> None:
        predict(ready, inputs, threads=PREDICT_THREADS)

    def alone(work: Callable[[], object]) -> float:
        time.sleep(SPIN_S)
        return clock(work)

    ours(), theirs()
    pairs = [(alone(ours), alone(theirs)) for _ in range(15)]
    ratios = [a / b for a, b in pairs]
    low, median, high = np.percentile(ratios, [25, 50, 75])
    spread = f"{median:.3f} × | {low:.3f} – {high:.3f} | | {max(ratios):.3f} × | ≤ 1.1 ×"
    return f"| eval | {name}: ours / ONNX Runtime, {len(inputs):,} examples | 15 | {spread} |"


def main(arguments: list[str]) -> None:
    """Print the table."""
    torch.set_num_threads(2)
    print(f"{machine()}\n\n{HEADER}", flush=True)
    for part in (criteria, observers):
        if arguments == [part.__name__]:
            for pair in (("digits", "cnn"), ("mnist", "lenet300")):
                for line in part(mo.workload(pair[0]), mo.baseline(*pair), LIMITS[pair], " ".join(pair)):
                    print(line, flush=True)
            return
    for (workload, name), limit in LIMITS.items():
        w, model = mo.workload(workload), mo.baseline(workload, name)
        for line in unseen_and_again(w, model, limit, f"{workload} {name}"):
            print(line, flush=True)
    w = mo.workload("mnist")
    print(combining(w, mo.baseline("mnist", "lenet300")), flush=True)
    for name in ("lenet300", "lenet5"):
        print(against_onnx_runtime(w, mo.baseline("mnist", name), f"mnist {name}"), flush=True)
    hashing = [clock(lambda: identity.key(mo.baseline("mnist", "lenet300"))) for _ in range(20)]
    print(row("", "a fresh copy of a baseline with its key", hashing, ""), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
