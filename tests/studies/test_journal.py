"""Appending and reading on: half lines, damaged lines, full disks."""

from __future__ import annotations

import math
import resource
import threading
from pathlib import Path

import pytest

from modelopt_core.studies.jobs.journal import JournalError, Tail, append
from tests.waiting import join


def test_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    append(path, {"kind": "a", "text": "ü\n\u2028", "x": math.inf})
    assert path.read_bytes() == '{"kind":"a","text":"ü\\n\u2028","x":Infinity}\n'.encode()
    assert tail.read() == [{"kind": "a", "text": "ü\n\u2028", "x": math.inf}]
    assert tail.read() == []


def test_half_a_line_is_no_record_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    for part, expected in [(b'{"n":1}\n{"n"', [{"n": 1}]), (b":2", []), (b"}\n", [{"n": 2}])]:
        with path.open("ab") as file:
            file.write(part)
        assert tail.read() == expected


@pytest.mark.parametrize("line", [b"", b"x", b"[1]", b"3", b"\xff", b"[" * 50_000, b"9" * 9_999, b'{"n": 1', b"\0" * 9])
def test_a_damaged_line_costs_itself_alone(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, {"n": 1})
    with path.open("ab") as file:
        file.write(line)  # the writer died here
    append(path, {"n": 2})
    assert Tail(path).read() == [{"n": 1}, {"n": 2}]


def test_a_full_disk_is_one_sentence_and_spoils_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, {"n": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        for _ in range(2):
            with pytest.raises(JournalError, match=r"cannot write '.*' \(.*\); choose a folder with room"):
                append(path, {"n": 2, "text": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append(path, {"n": 3})
    assert Tail(path).read() == [{"n": 1}, {"n": 3}]


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    writers = [
        threading.Thread(target=lambda w=w: [append(path, {"w": w, "n": n, "pad": "x" * 500}) for n in range(50)])
        for w in range(4)
    ]
    for writer in writers:
        writer.start()
    join(writers, "50 lines of each writer")
    read = Tail(path).read()
    assert len(read) == 200
    assert all([r["n"] for r in read if r["w"] == w] == [*range(50)] for w in range(4))


def test_what_is_no_journal_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(JournalError, match="is not a plain file; delete it"):
        Tail(tmp_path / "folder").read()
    with pytest.raises(JournalError, match="is not a plain file; delete it"):
        append(tmp_path / "folder", {})
    monkeypatch.setattr("modelopt_core.studies.jobs.journal.MAX_BYTES", 5)
    append(tmp_path / "long", {"n": 1})
    with pytest.raises(JournalError, match="has 8 bytes; at most 5 are read; delete it"):
        Tail(tmp_path / "long").read()
