"""Running a model: PyTorch as it is, or ONNX Runtime, on integers where the weights lie on an 8- or 4-bit grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor, nn

from modelopt_core import export, identity, int4, int8, sound, turns
from modelopt_core.composite import Composite
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.workload import Workload

RUNTIMES = ("eager", "onnx")
CALIBRATION_EXAMPLES = 512  # of the train split; val and test stay unseen
PREDICT_BATCH = 250  # fastest of 32 … 2,500 on 300-100, LeNet-5 and 1200-1200, and a divisor of 10,000
ERRORS_ONLY = 3  # ONNX Runtime's log level
SESSION_BYTES = 300_000  # of a session beside its weights
PROBED = {"a": np.full((1, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)}
UNWANTED = ["WeightBiasQuantization"]  # it rounds a float layer between integer ones to int8 unasked


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model that is ready to run: call it with inputs (b, *shape), NumPy or torch, for logits (b, K) on the CPU.

    label says what really runs; integer, whether any layer does so on integers; reasons, why each other layer does not;
    size_bytes, what keeping it costs.
    """

    run: Callable[[Tensor], Tensor]
    runtime: str
    label: str
    threads: int = 1
    device: str = "cpu"
    integer: bool = False
    reasons: tuple[tuple[str, str], ...] = ()
    size_bytes: int = 0

    def __call__(self, inputs: Tensor | np.ndarray) -> Tensor:
        return self.run(torch.as_tensor(inputs))


def compile(
    model: nn.Module, workload: Workload, runtime: str = "onnx", threads: int = 1, device: str = "cpu"
) -> Compiled:
    """Make `model` ready to run on inputs of the workload's shape.

    runtime: "onnx" (ONNX Runtime on the CPU) or "eager" (PyTorch on any device that it finds here).
    A convolution or linear layer whose weight lies on an 8-bit grid runs on integers under "onnx", its activation
    ranges taken from train examples; so does a linear layer on a 4-bit grid, its inputs rounded as they come.
    ModelOptError for a runtime or device that is not there, and for weights and answers that are no numbers (sound.py).
    """
    sound.check(model, bare=True)
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ModelOptError(f"threads is {threads!r}; give a whole number from 1 up")
    available = devices() if runtime == "eager" else ("cpu",)
    if device not in available:
        raise ModelOptError(
            f"device {device!r} is not there for runtime {runtime!r}; choose from {', '.join(available)}"
        )
    if isinstance(model, Composite) and model.skips:
        if runtime == "onnx" and model.has_graph:
            return joined(model, workload, threads)(model)
        fed = [(member, model.feeds(at, workload)) for at, member in enumerate(model.members)]
        return branching(model, [compile(member, given, runtime, threads, device) for member, given in fed])
    ready = _eager(model, threads, device) if runtime == "eager" else _onnx(model, workload, threads)
    sound.answers(ready(workload.example), workload.example, sound.name_of(model))
    return ready


def branching(model: Composite, calls: Sequence[Compiled]) -> Compiled:
    """A composite whose members are ready to run: Python chooses between them."""
    first, labels = calls[0], dict.fromkeys(call.label for call in calls)
    return Compiled(
        partial(model.run, calls),
        first.runtime,
        " and ".join(labels),
        first.threads,
        first.device,
        integer=all(call.integer for call in calls),
        reasons=tuple(reason for call in calls for reason in call.reasons),
        size_bytes=sum(call.size_bytes for call in calls),
    )


def devices() -> tuple[str, ...]:
    """Where PyTorch can compute on this machine: "cpu", and "cuda" or "mps" where present."""
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return tuple(name for name, there in found.items() if there)


def predict(compiled: Compiled, inputs: Tensor, threads: int = 2, batch: int = PREDICT_BATCH) -> Tensor:
    """Logits (N, K) of inputs (N, *shape), batch by batch on `threads` Python threads.

    Both runtimes let go of the interpreter's lock, so a session with one thread each is as fast as one session with
    two. The batches do not depend on `threads`, and so neither do the numbers.
    """
    batches, pause = inputs.split(batch), turns.pauser()

    def run(part: Tensor) -> Tensor:
        pause()
        return compiled(part)

    if threads == 1 or len(batches) == 1:
        return torch.cat([run(part) for part in batches])
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(run, batches)))


def _eager(model: nn.Module, threads: int, device: str) -> Compiled:
    """PyTorch on a copy of the model in eval mode; a call returns when the device has finished."""
    there = identity.copied(model).to(device)

    def run(inputs: Tensor) -> Tensor:
        with torch.no_grad(), _torch_threads(threads):
            logits = there(inputs.to(device))
            return sound.one_tensor(logits, sound.name_of(model)).cpu()  # waits for the device

    label = f"PyTorch eager float32{'' if device == 'cpu' else f' on {device}'}"
    size = sum(t.nbytes for t in [*there.parameters(), *there.buffers()])
    return Compiled(run, "eager", label, threads, device, size_bytes=size)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Let PyTorch compute on so many threads, then on as many as before."""
    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class _Lowered:
    """The graph that ONNX Runtime gets. label, integer, reasons: as of Compiled; careful: as of _session."""

    graph: onnx.ModelProto
    label: str
    integer: bool
    reasons: dict[str, str]
    careful: bool


def graph_that_runs(model: nn.Module, workload: Workload) -> onnx.ModelProto:
    """The very graph that `compile` gives to ONNX Runtime. ModelOptError for a model that has none."""
    if isinstance(model, Composite) and model.skips and model.has_graph:
        fed = [(member, model.feeds(at, workload)) for at, member in enumerate(model.members)]
        return model.graph([_lowered(member, given).graph for member, given in fed])
    return _lowered(model, workload).graph


def _lowered(model: nn.Module, workload: Workload) -> _Lowered:
    """On integers if any layer can, else in float32."""
    graph = export.onnx_graph(model, workload.example)
    weights, reasons = int8.integer_weights(model)
    integer: set[str] = set()
    if weights:
        graph, integer = int8.integer_graph(graph, weights, lambda g, names: _activations(g, names, workload))
        reasons |= dict.fromkeys(weights.keys() - integer, "its activations or its bias do not fit")
    grids, unfit = int4.weights(model)
    graph, narrow = int4.four_bit_graph(graph, model, grids) if grids else (graph, set())
    reasons = {name: why for name, why in (reasons | unfit).items() if name not in narrow}
    kinds = [kind for kind, layers in (("int8", integer), ("4-bit", narrow)) if layers]
    label = f"ONNX Runtime {' and '.join(kinds) or 'float32'}"
    if kinds and reasons:
        count = len(integer) + len(narrow)
        label += f" ({count} of {count + len(reasons)} layers)"
    return _Lowered(graph, label, bool(kinds), reasons, careful=bool(integer) and _saturates())


def _onnx(model: nn.Module, workload: Workload, threads: int) -> Compiled:
    low = _lowered(model, workload)
    session = _session(low.graph, threads, low.careful)
    run = partial(_run, session, _kind(workload), {})
    reasons = tuple(low.reasons.items())
    return Compiled(run, "onnx", low.label, threads, "cpu", low.integer, reasons, weight(low.graph))


def weight(graph: onnx.ModelProto) -> int:
    """Bytes that a session of this graph keeps: its weights, and those as the kernels want them; what it computes lies
    in the arena of all sessions. Measured, they were 2.0 times the graph and 0.3 MB at most.
    """
    return SESSION_BYTES + 2 * graph.ByteSize()


def joined(model: Composite, workload: Workload, threads: int = 1) -> Callable[[Composite], Compiled]:
    """One ONNX Runtime session for a composite that has a graph, and for every other of the same members.

    What the graph wants beside the inputs, such as thresholds, is fed with each call.
    """
    lows = [_lowered(member, model.feeds(at, workload)) for at, member in enumerate(model.members)]
    graph = model.graph([low.graph for low in lows])
    session = _session(graph, threads, careful=any(low.careful for low in lows))
    label = " and ".join(dict.fromkeys(low.label for low in lows))
    reasons = tuple(reason for low in lows for reason in low.reasons.items())
    named = [given.name for given in graph.graph.input if given.name != export.INPUT]
    integer, size = all(low.integer for low in lows), weight(graph)  # what is kept holds no graph
    own = {name: model.get_buffer(name).clone() for name in named}  # the graph has them, and needs not be fed them

    def bound(whole: Composite) -> Compiled:
        theirs = {name: whole.get_buffer(name) for name in named}
        fed = {name: theirs[name].numpy().copy() for name in named if not torch.equal(own[name], theirs[name])}
        run = partial(_run, session, _kind(workload), fed)
        return Compiled(run, "onnx", label, threads, "cpu", integer, reasons, size)

    return bound


def _kind(workload: Workload) -> np.dtype:
    return np.dtype(str(workload.example.dtype).removeprefix("torch."))


def _run(session: onnxruntime.InferenceSession, kind: np.dtype, fed: dict[str, np.ndarray], inputs: Tensor) -> Tensor:
    feed = inputs.numpy(force=True).astype(kind, copy=False)
    return torch.from_numpy(session.run(None, {export.INPUT: feed, **fed})[0])


def _session(graph: onnx.ModelProto, threads: int, careful: bool = False) -> onnxruntime.InferenceSession:
    """A quiet session whose threads sleep between calls; `careful` multiplies uint8 by uint8, at half the speed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    _arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    if careful:
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=UNWANTED
        )
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise ModelOptError(f"ONNX Runtime refuses the graph ({reason}); runtime='eager' runs the model") from error


@cache
def _arena() -> None:
    """One arena for what all sessions compute: with one each, every session kept the memory of its largest batch.

    That was 95 MB for LeNet-5. Sharing costs no time, and a new session finds the memory warm.
    """
    kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    defaults = onnxruntime.OrtArenaCfg(0, -1, -1, -1)
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, place), defaults)


def shrink() -> None:
    """Give back what the arena of all sessions keeps and no session uses now."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _session(_probe(), 1).run(None, PROBED, options)


@cache
def _saturates() -> bool:
    """Whether this processor cuts off sums of uint8 · int8 products at 16 bits, as x86 does without VNNI."""
    return bool((_session(_probe(), 1).run(None, PROBED)[0] != 64 * 255 * 127).any())


def _probe() -> onnx.ModelProto:
    """A product of uint8 and int8, 64 wide."""
    a = helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, [1, 64])
    b = helper.make_tensor_value_info("b", onnx.TensorProto.INT8, [64, 16])
    c = helper.make_tensor_value_info("c", onnx.TensorProto.INT32, [1, 16])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "probe", [a, b], [c])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", export.OPSET)], ir_version=8)


def _activations(graph: onnx.ModelProto, names: list[str], workload: Workload) -> list[np.ndarray]:
    """The named tensors of the float graph on examples spread over the train split."""
    every = max(1, len(workload.train) // CALIBRATION_EXAMPLES)
    chosen = workload.train.take(slice(0, every * CALIBRATION_EXAMPLES, every)).numpy()
    given = dict.fromkeys((i.name for i in graph.graph.input), chosen)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    del exposed.graph.output[:]
    inner = [name for name in names if name not in given]
    exposed.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in inner)
    values = dict(zip(inner, _session(exposed, 1).run(inner, given), strict=True)) if inner else {}
    return [given[name] if name in given else values[name] for name in names]
