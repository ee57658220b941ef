"""A file is the old one or the new one, and a killed writer's part goes with the next save; a living one's stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from modelopt_core.errors import ModelOptError
from modelopt_core.machine import atomic
from tests.waiting import first_line

# Writes again and again until it is killed; `fsync` is held up so that most kills fall in the middle of a write.
WRITER = """
import os, sys, time
from modelopt_core.machine import atomic
real = os.fsync
os.fsync = lambda number: (real(number), print("writing", flush=True), time.sleep(60))
atomic.write(sys.argv[1], b"new" * 1000)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process in the middle of its write."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert first_line(process, "the writer to come to its fsync") == "writing\n"
    return process


def parts(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name.endswith(".part"))


@pytest.fixture
def kill():
    """Kill a process and see it gone; whatever a test leaves is killed in the end."""
    known: list[subprocess.Popen[str]] = []

    def killed(process: subprocess.Popen[str]) -> None:
        known.append(process)
        process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        process.wait(10)
        if process.stdout:
            process.stdout.close()

    yield killed
    for process in known:
        process.kill()


def test_the_part_of_a_killed_writer_goes_with_the_next_save(tmp_path, kill):
    path = tmp_path / "model.mopt"
    path.write_bytes(b"old")
    for _ in range(3):
        kill(writer(path))
    assert parts(tmp_path), "a kill in the middle leaves its part"
    assert path.read_bytes() == b"old"
    atomic.write(tmp_path / "another.mopt", b"data")  # of any name: it is the folder that is swept
    assert parts(tmp_path) == []
    assert (path.read_bytes(), (tmp_path / "another.mopt").read_bytes()) == (b"old", b"data")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.mopt"
    path.write_bytes(b"old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(ModelOptError, match=r"model.mopt' \(No space left on device\); choose a folder with room"):
        atomic.write(path, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["model.mopt"]
    assert path.read_bytes() == b"old"


def test_the_part_of_a_living_writer_stays(tmp_path, kill):
    path = tmp_path / "model.mopt"
    living = writer(path)
    kill(writer(tmp_path / "dead.mopt"))
    before = parts(tmp_path)
    assert len(before) == 2
    try:
        assert atomic.sweep(tmp_path) == [name for name in before if "dead" in name]
        atomic.write(path, b"mine")  # the same name, and both get through
        assert parts(tmp_path) == [name for name in before if "model" in name]
    finally:
        kill(living)
    assert len(atomic.sweep(tmp_path)) == 1
    assert (parts(tmp_path), path.read_bytes()) == ([], b"mine")


def test_two_hundred_kills_at_any_moment_leave_nothing_after_a_save(tmp_path):
    """The kill falls before, in and after the write; a fork is cheap where an interpreter is not."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    path, data = tmp_path / "model.mopt", b"x" * 200_000
    path.write_bytes(data)
    for i in range(200):
        child = os.fork()
        if not child:  # writes until it is killed, or has outlived this test
            for _ in range(10_000):
                atomic.write(path, data)
            os._exit(1)
        time.sleep(0.0005 * (i % 10))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(path.read_bytes()) == len(data)
    atomic.write(path, b"last")
    assert [each.name for each in tmp_path.iterdir()] == ["model.mopt"]
    assert path.read_bytes() == b"last"


def test_what_is_no_part_of_ours_stays(tmp_path):
    names = (".film.mp4.part", "model.mopt.12-34.part", ".model.mopt.12-34.part.txt", ".model.mopt.part")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".folder.1-2.part").mkdir()
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    (tmp_path / ".link.1-2.part").symlink_to(target)
    (tmp_path / ".stale.1-2.part").write_bytes(b"half")
    assert atomic.sweep(tmp_path) == [".stale.1-2.part"]
    assert all((tmp_path / name).exists() for name in (*names, ".folder.1-2.part", ".link.1-2.part", "target"))
    assert atomic.sweep(tmp_path / "nowhere") == []


def test_threads_that_write_and_sweep_one_folder_all_get_through(tmp_path):
    failed: list[ModelOptError] = []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                atomic.write(tmp_path / f"{number % 3}.mopt", bytes([number]) * 5000)
        except ModelOptError as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a writer waits for ever"
    assert failed == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.mopt", "1.mopt", "2.mopt"]
    assert all(len(set(each.read_bytes())) == 1 for each in tmp_path.iterdir())


def test_the_start_of_the_app_sweeps_its_own_folders(tmp_path, monkeypatch):
    from pages.server import serve

    monkeypatch.setenv("MODELOPT_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("MODELOPT_DATA", str(tmp_path / "data"))
    folders = (tmp_path / "jobs" / "0", tmp_path / "jobs" / "1", tmp_path / "data" / "MNIST" / "raw")
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / ".state.1-2.part").write_bytes(b"half")
    serve.warm()
    assert [parts(folder) for folder in folders] == [[], [], []]
