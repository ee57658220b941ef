"""The `modelopt` command: opens the app from any folder, or does the same work without a screen.

    modelopt                                                     open the app in a browser
    modelopt run recipe.json --workload digits --model cnn       apply a recipe, print what was measured (and --save it)
    modelopt fetch mnist                                         download a data set
    modelopt train-zoo NAME                                      train a shipped model again

The app is a process of its own; this module never imports Streamlit, and torch only when a command needs it.
Exit status: 0 done, 2 an error that the user can mend (one line on stderr), 130 interrupted, 141 nobody reads on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from modelopt_core import __version__
from modelopt_core.errors import ModelOptError, unknown
from modelopt_core.machine import atomic, cores
from modelopt_core.machine.folders import asset_path
from modelopt_core.machine.terminal import Bar as Bar

if TYPE_CHECKING:
    from modelopt_core.steps.recipe import Stage
    from modelopt_core.workloads.workload import Workload

T = TypeVar("T")
USER_ERROR, INTERRUPTED, NOBODY_READS = 2, 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells say it
HOST = "127.0.0.1"  # this machine only; serve.py listens nowhere else
MAX_SEED = 2**63 - 1  # what a torch.Generator takes
STOP_S = 5  # a server that has not stopped by then is killed
FILES = (".mopt", ".onnx", ".safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. argv: without the program's name; None means the process's own."""
    try:
        with _stdout():
            arguments = _parser().parse_args(argv)
        cores.share_cores(os.environ)
        return int(arguments.command(arguments))
    except ModelOptError as error:
        print(f"modelopt: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as of `| head -1`
        _let_go(sys.stdout, sys.stderr)
        return NOBODY_READS


def open_app(arguments: argparse.Namespace) -> int:
    """Start the app's server as a child process and wait for it; Ctrl-C and SIGTERM stop it."""
    command = [sys.executable, str(asset_path().parent / "pages" / "server" / "serve.py")]
    if arguments.port is not None:
        command += ["--port", str(_free(arguments.port))]
    server = subprocess.Popen([*command, "--no-browser"] if arguments.no_browser else command)
    earlier = signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        status = server.wait()
        return status if status >= 0 else 128 - status  # ended by a signal: as shells say it
    finally:
        signal.signal(signal.SIGTERM, earlier)
        _stop(server)


def run(arguments: argparse.Namespace) -> int:
    """Apply a recipe file to baseline models and print one line a stage, or JSON."""
    text = _read(Path(arguments.recipe))
    if not 0 <= arguments.seed <= MAX_SEED:
        raise ModelOptError(f"seed {arguments.seed} is not allowed; choose a whole number from 0 to {MAX_SEED}")
    _check_files(arguments.save)
    from modelopt_core.steps import schema

    _in_file(arguments.recipe, schema.check, text)
    _check_names(arguments.workload, arguments.model or ())
    import torch

    import modelopt_core as mo
    from modelopt_core.models import identity

    recipe = _in_file(arguments.recipe, mo.from_json, text)
    workload = mo.workload(arguments.workload)
    names = arguments.model or [workload.models[0]]
    pool = [mo.baseline(workload.name, name) for name in names]
    how = {name: getattr(arguments, name) for name in ("split", "runtime", "device", "seed")}
    if arguments.save and len(pool) > 1 and not any(isinstance(step, mo.Combine) for step in recipe):
        raise ModelOptError("--save writes one model, and the recipe leaves several; give one --model")
    with Bar(sys.stderr) as bar:
        stages = mo.run(recipe, pool, workload, report=bar, **how)
    asked = {
        "modelopt": __version__,
        "torch": torch.__version__,
        "workload": workload.name,
        "data": workload.data_hash,
        "models": {name: identity.key(model) for name, model in zip(names, pool, strict=True)},
        **how,
        "recipe": json.loads(mo.to_json(recipe)),
    }
    try:
        note = mo.provenance(recipe, stages[-1].measurement, **how, model=names)
        for path in arguments.save:
            _export(path, arguments.adaptive, stages[-1], workload, note)
    finally:  # what was measured is told, though the disk be full
        with _stdout():
            print(_document(asked, stages) if arguments.json else _table(stages))
    return 0


def fetch(arguments: argparse.Namespace) -> int:
    """Download a data set into MODELOPT_DATA or the user's data folder, with a progress bar on stderr."""
    if arguments.name != "mnist":
        raise unknown("data set", arguments.name, ["mnist"])
    from modelopt_core.workloads.mnist import fetch_mnist

    with Bar(sys.stderr) as bar:
        folder = fetch_mnist(bar)
    with _stdout():
        print(f"mnist is in {folder}")
    return 0


def train_zoo(arguments: argparse.Namespace) -> int:
    """Train a shipped model again and write its weights where the app looks for them."""
    from modelopt_core import workloads  # noqa: F401  importing workloads registers them
    from modelopt_core.training import zoo

    with Bar(sys.stderr) as bar:
        path = zoo.train_zoo(arguments.name, bar)
    with _stdout():
        print(path)
    return 0


@contextmanager
def _stdout() -> Iterator[None]:
    """What is printed inside goes out at once. ModelOptError where there is no room for it."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _let_go(sys.stdout)
        raise ModelOptError(f"cannot write to stdout ({error.strerror}); send it where there is room") from None


def _let_go(*streams: TextIO) -> None:
    """What is still to be written to them is lost, so that the interpreter does not try, and fail, at its end."""
    for stream in streams:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelopt", description="Open ModelOpt Studio, or do its work headless.")
    parser.add_argument("--version", action="version", version=f"modelopt-studio {__version__}")
    parser.add_argument("--port", type=int, help="port on this machine (default: 8501 or the next free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    parser.set_defaults(command=open_app)
    commands = parser.add_subparsers(title="commands", metavar="{run,fetch,train-zoo}")

    one = commands.add_parser("run", help="apply a recipe file and print what was measured")
    one.add_argument("recipe", help="a recipe as JSON; the app's Copy recipe writes one")
    one.add_argument("--workload", default="digits", metavar="NAME", help="default: digits")
    one.add_argument(
        "--model", action="append", metavar="NAME", help="repeat for a pool (default: the workload's first)"
    )
    one.add_argument("--split", default="val", metavar="NAME", help="val chooses (default), test reports")
    one.add_argument("--runtime", default="onnx", metavar="NAME", help="onnx (default) or eager")
    one.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default); cuda or mps with --runtime eager")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument(
        "--save",
        action="append",
        default=[],
        metavar="FILE",
        help="keep the last model as .mopt, .onnx or .safetensors; may be repeated",
    )
    one.add_argument(
        "--adaptive", action="store_true", help="a small model's .mopt file about 5 %% shorter, and slower"
    )
    one.add_argument("--json", action="store_true", help="print JSON instead of a table")
    one.set_defaults(command=run)

    two = commands.add_parser("fetch", help="download a data set")
    two.add_argument("name", help="mnist")
    two.set_defaults(command=fetch)

    three = commands.add_parser("train-zoo", help="train a shipped model again")
    three.add_argument("name", help="a zoo name, such as digits/cnn")
    three.set_defaults(command=train_zoo)
    return parser


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ModelOptError(f"cannot read the recipe {path}: {reason}; give the path of a JSON file") from None


def _in_file(path: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ModelOptError as error:
        raise ModelOptError(f"{path}: {error}") from None


def _check_files(paths: Sequence[str]) -> None:
    """Said before the work is done, not after."""
    for path in paths:
        if Path(path).suffix not in FILES:
            raise ModelOptError(f"--save {path}: the name must end in {', '.join(FILES)}")
        atomic.check(path)


def _check_names(workload: str, models: Sequence[str]) -> None:
    """Said before PyTorch is imported, where the zoo's index can say it."""
    try:
        rows = json.loads(asset_path("zoo", "index.json").read_text("utf-8"))
        known = [(*name.split("/"),) for name in rows]
    except (OSError, ValueError, TypeError):
        return
    if workload not in (there := {name for name, _ in known}):
        raise unknown("workload", workload, there)
    for model in models:
        if (workload, model) not in known:
            raise unknown(f"{workload} model", model, (name for of, name in known if of == workload))


def _export(path: str, adaptive: bool, stage: Stage, workload: Workload, note: Mapping[str, object]) -> None:
    import modelopt_core as mo

    if path.endswith(".onnx"):
        mo.export_onnx(stage.model, workload, path)
    elif path.endswith(".safetensors"):
        mo.export_safetensors(stage.model, path)
    else:
        mo.save(stage.model, path, note, adaptive=adaptive)


def _document(asked: Mapping[str, object], stages: Iterable[Stage]) -> str:
    rows = [{"label": s.label, "branch": s.branch, "measurement": asdict(s.measurement)} for s in stages]
    return json.dumps({**asked, "stages": rows}, indent=2)


def _table(stages: Iterable[Stage]) -> str:
    """One line a stage: score with its 95 % interval, bytes of the file, work, median latency with its quartiles."""
    rows = [("stage", "score", "size", "non-zero", "MACs", "latency")]
    for stage in stages:
        m = stage.measurement
        score = f"{m.score.value:.2%} [{m.score.low:.2%}, {m.score.high:.2%}] {m.score.how}"
        latency = f"{m.latency_ms.value:.3f} ms [{m.latency_ms.low:.3f}, {m.latency_ms.high:.3f}]"
        latency += f" {m.runtime}{', noisy' if m.noisy else ''}"
        rows.append((stage.label, score, f"{m.size_bytes:,} B", f"{m.nonzero:,}", f"{m.macs:,}", latency))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _free(port: int) -> int:
    """The port, if the server can have it."""
    if not 1 <= port <= 65535:
        raise ModelOptError(f"port {port} does not exist; choose one from 1024 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ModelOptError(f"port {port}: {error.strerror}; choose another, or leave --port out") from None
    return port


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the child however we came here; it has had the terminal's Ctrl-C already."""
    try:
        server.terminate()
        server.wait(STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
