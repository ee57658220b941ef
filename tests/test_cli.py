"""The modelopt command, in this process where it can be and as a process of its own where signals matter."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import modelopt_core
from modelopt_core import cli
from modelopt_core.errors import DataMissing
from modelopt_core.machine.events import Progress
from modelopt_core.models import identity
from tests.waiting import LIMIT_S, SOON_S, first_line, wait_until

RECIPE = '{"version": 1, "steps": [\n {"step": "Prune",\n  "ratio": 0.5}\n]}\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], str]:
    """Writes a recipe file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "recipe.json"
        path.write_text(text, "utf-8")
        return str(path)

    return write


def test_help_and_version_need_neither_torch_nor_streamlit() -> None:
    code = """
        import sys
        from modelopt_core.cli import main
        try:
            main(["--version"])
        except SystemExit as stop:
            assert stop.code == 0
        print(sorted({"torch", "streamlit", "pandas"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    assert done.stdout.split("\n")[:2] == [f"modelopt-studio {modelopt_core.__version__}", "[]"]


def test_run_prints_a_line_a_stage(recipe: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", recipe(RECIPE), "--workload", "digits", "--model", "cnn"]) == 0
    header, baseline, prune = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["stage", "score", "size"]
    assert baseline.startswith("baseline")
    assert prune.startswith("Prune")
    assert baseline.index("%") == prune.index("%")  # aligned


def test_run_prints_json(recipe: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", recipe(RECIPE), "--model", "cnn", "--split", "test", "--seed", "3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["workload"], document["models"], document["split"], document["seed"]) == (
        "digits",
        {"cnn": identity.key(modelopt_core.baseline("digits", "cnn"))},
        "test",
        3,
    )
    before, after = (stage["measurement"] for stage in document["stages"])
    assert before["score"]["low"] <= before["score"]["value"] <= before["score"]["high"]
    assert after["nonzero"] < before["nonzero"]
    assert document["recipe"]["steps"][0]["ratio"] == 0.5


def test_what_run_prints_as_recipe_is_a_recipe(
    recipe: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["run", recipe(RECIPE), "--model", "cnn", "--json"])
    first = json.loads(capsys.readouterr().out)
    cli.main(["run", recipe(json.dumps(first["recipe"])), "--model", "cnn", "--json"])
    second = json.loads(capsys.readouterr().out)
    assert first["recipe"] == second["recipe"]
    assert [s["measurement"]["score"] for s in first["stages"]] == [s["measurement"]["score"] for s in second["stages"]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workload", "digit"], "unknown workload 'digit' (did you mean 'digits'?); choose from "),
        (["--model", "resnet"], "resnet"),
        (["--split", "tset"], "unknown split 'tset'; choose from train, val, test"),
        (["--runtime", "tensorrt"], "tensorrt"),
        (["--device", "abacus"], "abacus"),
        (["--seed", "-1"], "seed -1 is not allowed; choose a whole number from 0 to "),
        (["--seed", str(2**63)], f"seed {2**63} is not allowed"),
    ],
)
def test_a_value_that_does_not_exist(
    arguments: list[str], text: str, recipe: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", recipe(RECIPE), *arguments]) == cli.USER_ERROR
    assert_one_line(capsys, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ('{"steps": [\n  {"step": "Prune",,\n]}', "line 2"),
        ("[1, 2]", '{"version": 1, "steps": '),
        (RECIPE.replace("0.5", "1.5"), "line 3, step 1, ratio: Prune: ratio=1.5 is not allowed"),
        (RECIPE.replace("0.5", '"half"'), "line 3, step 1, ratio: "),
        (RECIPE.replace("ratio", "ration"), "line 3, step 1, ration: Prune has no field 'ration'"),
        (RECIPE.replace("Prune", "Prun"), "line 2, step 1, step: unknown step 'Prun' (did you mean 'Prune'?)"),
        (RECIPE.replace('"ratio": 0.5', '"criterion": "l3"'), "line 3, step 1, criterion: unknown criterion 'l3'"),
        (RECIPE.replace('"Prune"', "[]"), "line 2, step 1, step: unknown step"),
        ('{"steps": [\n\n 7]}', "line 3, step 1"),
        ('{"version": 9, "steps": []}', "version 9"),
    ],
)
def test_a_recipe_that_is_not_one_names_field_and_line(
    text: str, says: str, recipe: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(text)
    assert cli.main(["run", path]) == cli.USER_ERROR
    assert_one_line(capsys, f"modelopt: {path}: ", says)


def test_a_recipe_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(tmp_path / "none.json")]) == cli.USER_ERROR
    assert_one_line(capsys, "cannot read the recipe", "No such file")
    assert cli.main(["run", str(tmp_path)]) == cli.USER_ERROR
    assert_one_line(capsys, "cannot read the recipe", "directory")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe")
    assert cli.main(["run", str(tmp_path / "latin.json")]) == cli.USER_ERROR
    assert_one_line(capsys, "not UTF-8")


def test_fetch_reports_and_says_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from modelopt_core.workloads import mnist

    def fetched(report: Callable[[object], None]) -> Path:
        report(Progress("fetch train-images", 5, 10))
        return Path("somewhere")

    monkeypatch.setattr(mnist, "fetch_mnist", fetched)
    assert cli.main(["fetch", "mnist"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "mnist is in somewhere\n"
    assert "fetch train-images [" in captured.err


def test_fetch_and_train_zoo_refuse_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fetch", "minst"]) == cli.USER_ERROR
    assert_one_line(capsys, "unknown data set 'minst' (did you mean 'mnist'?); choose from mnist")
    assert cli.main(["train-zoo", "digits/resnet"]) == cli.USER_ERROR
    assert_one_line(capsys, "unknown digits model 'resnet'; choose from cnn, cnn-2, expert-1")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (DataMissing("gone; mend it"), 2)])
def test_exit_status(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "fetch", fail)
    assert cli.main(["fetch", "mnist"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_wrong_arguments_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["run"])
    assert stop.value.code == 2
    assert "recipe" in capsys.readouterr().err


def test_bar_by_hand() -> None:
    bar = cli.Bar(io.StringIO())
    assert bar.draw(Progress("train", 1, 4, {"loss": 0.5})) == f"train [{'#' * 6}{' ' * 18}] 1/4 loss 0.5"
    assert bar.draw(Progress("train", 0, 0)) == f"train [{' ' * 24}] 0/0"


def test_bar_stays_on_one_line_of_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with cli.Bar(out) as bar:
        for step in range(1, 4):
            bar(Progress("train", step, 3))
        bar("something else")
    assert out.getvalue().count("\r") == 3
    assert out.getvalue().count("\n") == 1


def test_a_port_that_cannot_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((cli.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["--port", str(port), "--no-browser"]) == cli.USER_ERROR
    assert_one_line(capsys, f"port {port}: Address already in use; choose another, or leave --port out")
    assert cli.main(["--port", "70000"]) == cli.USER_ERROR
    assert_one_line(capsys, "port 70000 does not exist")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`modelopt` in a process group of its own, with a stand-in for the server; and the stand-in's process id."""
    launcher = tmp_path / "pages" / "server" / "serve.py"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("import os, sys, time\nprint(os.getpid(), *sys.argv[1:], flush=True)\ntime.sleep(300)\n")
    with socket.socket() as probe:
        probe.bind((cli.HOST, 0))
        port = probe.getsockname()[1]
    code = f"""
        import pathlib, signal, sys
        from modelopt_core import cli
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever shell or nohup began these tests
        cli.asset_path = lambda: pathlib.Path({str(tmp_path / "assets")!r})
        sys.exit(cli.main(["--port", "{port}", "--no-browser"]))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        server, *arguments = first_line(process, "the server's first word").split()
        assert arguments == ["--port", str(port), "--no-browser"]
        yield process, int(server)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the stand-in too
        process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_stops_the_server(opened: tuple[subprocess.Popen[str], int], whole_group: bool) -> None:
    process, server = opened
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(LIMIT_S) == cli.INTERRUPTED
    assert_gone(server)


def test_sigterm_stops_the_server(opened: tuple[subprocess.Popen[str], int]) -> None:
    process, server = opened
    process.terminate()
    assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert_gone(server)


def assert_one_line(capsys: pytest.CaptureFixture[str], *texts: str) -> None:
    """One line on stderr that holds the texts, and nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    for text in texts:
        assert text in captured.err


def assert_gone(process_id: int) -> None:
    """The process has ended within a few seconds."""

    def gone() -> bool:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(gone, f"process {process_id} to end", SOON_S)
