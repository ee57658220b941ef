"""Measuring a model: its score on a split, its bytes in a file, its multiply–accumulates, its latency.

Predictions are the currency: what a model says about a split is computed once, kept, and everything that compares
models is arithmetic on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor, nn

from modelopt_core.files import mopt
from modelopt_core.machine.cache import STORE, Store
from modelopt_core.machine.digest import CODE_VERSION
from modelopt_core.models import held_out_note, identity, sound
from modelopt_core.models.composite import Composite
from modelopt_core.runtime import latency
from modelopt_core.runtime.inference import Compiled, branching, compile, joined, predict
from modelopt_core.structure.layer_table import macs
from modelopt_core.tasks.statistics import Estimate, Flips, difference, mcnemar, mean_interval
from modelopt_core.workloads.workload import Outputs, Workload

ZEROS = 0.001  # share of exactly zero parameters above which a network counts as masked
SESSIONS = Store(max_bytes=48 * 2**20)  # a few; once measured, only baselines need theirs
PREDICT_THREADS = min(2, os.cpu_count() or 1)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about the n examples of a split. answers: (n, …); scores, confidence: (n,) in [0, 1]."""

    outputs: Outputs
    answers: Tensor
    scores: Tensor
    confidence: Tensor
    compiled: str  # label of the runtime that ran
    integer: bool  # integer kernels ran wherever a weight lies on a grid

    @property
    def size_bytes(self) -> int:
        """What keeping this costs."""
        kept = [self.outputs.logits, self.answers, self.scores, self.confidence]
        return sum(t.numel() * t.element_size() for t in kept)


@dataclass(frozen=True)
class Measurement:
    """One model, measured. Latency is of one example unless `batch` says otherwise; speedup against the baseline."""

    score: Estimate
    metric: str
    parameters: int
    nonzero: int
    macs: int
    size_bytes: int
    size_label: str  # what file the bytes are of
    entropy_bytes: int
    latency_ms: Estimate
    baseline_ms: Estimate
    speedup: Estimate
    noisy: bool
    runtime: str
    threads: int
    batch: int
    device: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models on the same examples. delta: change of the score; flips: won, lost, p; changed: (m,) indices."""

    delta: Estimate
    flips: Flips | None  # None where scores are not right or wrong
    changed: Tensor


def compiled(model: nn.Module, workload: Workload, runtime: str = "onnx", device: str = "cpu") -> Compiled:
    """The model ready to run on one thread; the last few are kept."""
    if isinstance(model, Composite) and model.skips:
        if runtime == "onnx" and model.has_graph:
            members = tuple(identity.key(member) for member in model.members)
            same = ("joined", model.called, model.extra_repr(), members, workload.data_hash)
            return SESSIONS.get(same, lambda: joined(model, workload), lambda bound: bound(model).size_bytes)(model)
        fed = [(member, model.feeds(at, workload)) for at, member in enumerate(model.members)]
        return branching(model, [compiled(member, given, runtime, device) for member, given in fed])
    key = (identity.key(model), workload.data_hash, runtime, device)
    return SESSIONS.get(key, lambda: compile(model, workload, runtime=runtime, device=device), lambda c: c.size_bytes)


def predictions(
    model: nn.Module, workload: Workload, split: str = "val", *, runtime: str = "onnx", device: str = "cpu"
) -> Predictions:
    """What the model says about a split, computed once per model, data, split, runtime and device.

    For a composite it is arithmetic on what its parts say. Of a model that was fitted on val, what it has learned there
    by heart is taken back. ModelOptError for weights that are not finite, and for answers that are no (n, K) numbers.
    """

    def make() -> Predictions:
        sound.check(model, bare=True)
        if isinstance(model, Composite) and model.arithmetic:
            parts = [predictions(part, workload, split, runtime=runtime, device=device) for part in model.parts]
            label = " and ".join(dict.fromkeys(part.compiled for part in parts))
            said = stacked(model.parts, workload, split, runtime=runtime, device=device)
            answer = held_out_note.taken_back(model, model.answer(said).detach(), workload, split)
            return predicted(answer, workload, split, label, all(part.integer for part in parts))
        ready = compiled(model, workload, runtime, device)
        logits = predict(ready, workload.split(split).inputs, threads=PREDICT_THREADS)
        logits = held_out_note.taken_back(model, logits, workload, split)
        return predicted(logits, workload, split, ready.label, ready.integer and not ready.reasons)

    key = ("predictions", identity.key(model), workload.data_hash, split, runtime, device, CODE_VERSION)
    return STORE.get(key, make, lambda p: p.size_bytes)


def stacked(
    models: Sequence[nn.Module], workload: Workload, split: str = "val", *, runtime: str = "onnx", device: str = "cpu"
) -> Tensor:
    """What several models say about a split: log-probabilities (M, n, K), -inf past the classes of those with fewer.

    Of each, `predictions` are used again.
    """
    found = [predictions(model, workload, split, runtime=runtime, device=device) for model in models]
    said = [one.outputs.log_probabilities for one in found]
    most = max(one.shape[1] for one in said)
    return torch.stack([nn.functional.pad(one, (0, most - one.shape[1]), value=-torch.inf) for one in said])


def predicted(logits: Tensor, workload: Workload, split: str, label: str, integer: bool) -> Predictions:
    """What these logits (n, K) mean on a split of the workload."""
    examples = workload.split(split)
    outputs, targets = Outputs(sound.answers(logits, examples.kept, "the model", workload.widths)), examples.targets
    scores, confidence = workload.example_scores(outputs, targets), workload.confidence(outputs)
    return Predictions(outputs, workload.decode(outputs), scores, confidence, label, integer)


def measure(
    model: nn.Module,
    workload: Workload,
    split: str = "val",
    *,
    runtime: str = "onnx",
    device: str = "cpu",
    baseline: nn.Module | None = None,
) -> Measurement:
    """Score, size, MACs and latency; the latency in turn with `baseline` (default: with itself), one thread, batch 1.

    runtime: 'onnx' or 'eager'; device: 'cpu', 'cuda' or 'mps' (the latter two with 'eager'). The score is `simulated`
    where the network is masked, or its weights lie on a grid and float kernels ran; `fitted` where a head was
    fitted to the split and nothing tells what it says of examples that it has not seen, see held_out_note.py.
    """
    reference = model if baseline is None else baseline
    key = _key(model, reference, workload, split, runtime, device)
    return STORE.get(key, lambda: _measure(model, reference, workload, split, runtime, device))


def retimed(
    found: Measurement,
    model: nn.Module,
    workload: Workload,
    split: str = "val",
    *,
    runtime: str = "onnx",
    device: str = "cpu",
    baseline: nn.Module | None = None,
) -> Measurement:
    """`found`, which `measure` said of the same, with its latency timed again; `measure` says so from now on.

    Of two disturbed timings the one with the narrower speedup stays.
    """
    reference = model if baseline is None else baseline
    timed = _latency(model, reference, workload, split, runtime, device)
    if timed.noisy and timed.speedup.high / timed.speedup.low >= found.speedup.high / found.speedup.low:
        return found
    times = {each.name: getattr(timed, each.name) for each in fields(timed)}
    return STORE.put(_key(model, reference, workload, split, runtime, device), replace(found, **times))


def _key(
    model: nn.Module, reference: nn.Module, workload: Workload, split: str, runtime: str, device: str
) -> tuple[str, ...]:
    return ("measurement", identity.key(model), identity.key(reference), workload.data_hash, split, runtime, device)


def _measure(
    model: nn.Module, reference: nn.Module, workload: Workload, split: str, runtime: str, device: str
) -> Measurement:
    sound.check(model)
    said = predictions(model, workload, split, runtime=runtime, device=device)
    parameters = sum(p.numel() for p in model.parameters())
    nonzero = sum(int(torch.count_nonzero(p)) for p in model.parameters())
    on_grid = any(hasattr(m, "weight_levels") for m in model.modules())
    real = said.integer if on_grid else not _masked(model)
    how = "measured" if real else "simulated"
    size = mopt.sizes(model)
    timed = _latency(model, reference, workload, split, runtime, device)
    return Measurement(
        score=mean_interval(said.scores.numpy(), "fitted" if held_out_note.by_heart(model, workload, split) else how),
        metric=workload.metric,
        parameters=parameters,
        nonzero=nonzero,
        macs=_macs(model, workload, split, runtime, device),
        size_bytes=size.size_bytes,
        size_label=size.label,
        entropy_bytes=size.entropy_bytes,
        latency_ms=timed.latency_ms,
        baseline_ms=timed.baseline_ms,
        speedup=timed.speedup,
        noisy=timed.noisy,
        runtime=said.compiled,
        threads=1,
        batch=1,
        device=device,
    )


def _masked(model: nn.Module) -> bool:
    """Are there zeros that no kernel skips? A head of a composite's own that reads few of its inputs is none."""
    counted = list((model.members if isinstance(model, Composite) else model).parameters())
    zeros = sum(p.numel() - int(torch.count_nonzero(p)) for p in counted)
    return zeros > ZEROS * sum(p.numel() for p in counted)


def _macs(model: nn.Module, workload: Workload, split: str, runtime: str, device: str) -> int:
    """Multiply–accumulates for one example: the mean over the split where they differ."""
    if not (isinstance(model, Composite) and model.skips):
        return macs(model, workload.example)
    shares = _used(model, workload, split, runtime, device).mean(dim=1).tolist()
    each = [_macs(one, workload, split, runtime, device) for one in model.working]
    return round(sum(share * one for share, one in zip(shares, each, strict=True)))


def _used(model: Composite, workload: Workload, split: str, runtime: str, device: str) -> Tensor:
    """(M, n): which models of a composite ran for which example of the split."""
    return model.used(stacked(model.parts, workload, split, runtime=runtime, device=device))


def _latency(
    model: nn.Module, reference: nn.Module, workload: Workload, split: str, runtime: str, device: str
) -> latency.Timing:
    """Of one example; where the way through the model differs, the mean over the ways by their share of the split."""
    fast, slow = compiled(model, workload, runtime, device), compiled(reference, workload, runtime, device)
    first = ("expected_ms", identity.key(reference), workload.data_hash, runtime, device)
    chosen, shares = workload.example, [1.0]
    if isinstance(model, Composite) and model.skips:
        used = _used(model, workload, split, runtime, device)
        _, way, counts = used.unique(dim=1, return_inverse=True, return_counts=True)
        chosen = workload.split(split).take([int((way == w).nonzero()[0]) for w in range(len(counts))])
        shares = (counts / counts.sum()).tolist()
    timings = []
    for one in chosen.split(1):
        given = one.numpy()
        expected_ms = STORE.peek(first)
        timings.append(latency.interleave(partial(fast, given), partial(slow, given), expected_ms))
        if expected_ms is None or timings[0].baseline_ms.value < expected_ms:  # who disturbs only adds time
            STORE.put(first, timings[0].baseline_ms.value)
    return latency.weighted(timings, shares)


def compare(
    before: nn.Module,
    after: nn.Module,
    workload: Workload,
    split: str = "val",
    *,
    runtime: str = "onnx",
    device: str = "cpu",
) -> Comparison:
    """What changed from one model to another on the same examples: arithmetic on kept predictions."""
    first = predictions(before, workload, split, runtime=runtime, device=device)
    second = predictions(after, workload, split, runtime=runtime, device=device)
    was, now = first.scores.numpy(), second.scores.numpy()
    binary = bool(((was == 0) | (was == 1)).all() and ((now == 0) | (now == 1)).all())
    changed = (first.answers != second.answers).reshape(len(was), -1).any(dim=1)
    return Comparison(difference(was, now), mcnemar(was, now) if binary else None, changed.nonzero().flatten())
