"""A mutant, and what came of it: its tests run in a process of their own until one fails. Not on Windows: it forks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("rewrite.py")
QUIET = ("-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:xdist")
LIMIT_S = 240  # tests that take longer will not end: a mutant may loop
LEAST = 0.95  # share of all mutants that the tests must catch

# Where wrong code once went unnoticed: none of these may live.
PLACES = (
    "n:m on convolutions", "blocks on convolutions", "gptq's later blocks", "global scope",
    "the one channel that stays", "uint8 ranges without zero", "zero point in the float fallback", "ECE's bin sizes",
    "greedy's best moment", "a cascade's mean speedup", "buffers in the key", "budget after applying",
    "grid of mse", "grid of entropy",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A mistake. function: module:name; before, after: see `rewritten`; tests: for pytest; place: one of PLACES."""

    function: str
    before: str
    after: str
    tests: str
    place: str = ""

    @property
    def text(self) -> str:
        """For a table and for people."""
        return f"{self.function}: {self.before} → {self.after}"


@dataclass(frozen=True)
class Result:
    """outcome: caught, lives or broken (nothing can be said); by: the test that failed, or why it is broken."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float


class Trials:
    """A process that runs the tests of one mutant after another, each in a fork."""

    def __init__(self) -> None:
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # other threads do not survive a fork
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], cwd=ROOT, env={**os.environ, **one}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tried(self, mutant: Mutant, limit_s: int = LIMIT_S) -> Result:
        """Run the mutant's tests until one fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        arguments = [mutant.function, mutant.before, mutant.after, *mutant.tests.split(), *QUIET]
        start = time.monotonic()
        with NamedTemporaryFile("r", suffix=".log") as log:
            self.process.stdin.write(json.dumps([limit_s, log.name, arguments]) + "\n")
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            said = log.read()
        return judged(mutant, code, said, time.monotonic() - start)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def judged(mutant: Mutant, code: int, said: str, seconds: float) -> Result:
    """What an exit status and what pytest has said mean."""
    if code == -signal.SIGALRM:
        return Result(mutant, "caught", "no end in time", seconds)
    if code == 0:
        return Result(mutant, "lives", "", seconds)
    failed = re.search(r"^FAILED \S+?::(\w+)", said, re.MULTILINE)
    if code == 1 and failed:
        return Result(mutant, "caught", failed[1], seconds)
    last = [line for line in said.splitlines() if line.strip()][-1:]
    return Result(mutant, "broken", f"exit status {code}: {' '.join(last)[:100]}", seconds)


def status(results: Sequence[Result]) -> int:
    """0 where no named place lives, nothing is broken and at least LEAST are caught; else 1."""
    caught = sum(r.outcome == "caught" for r in results)
    wrong = any(r.outcome == "broken" or (r.outcome == "lives" and r.mutant.place) for r in results)
    return int(wrong or caught < LEAST * len(results))


def table(results: Sequence[Result]) -> list[str]:
    """Markdown: what lives first, then in the order of the list."""
    ordered = sorted(results, key=lambda r: ("broken", "lives", "caught").index(r.outcome))
    rows = []
    for r in ordered:
        m, found = r.mutant, r.by if r.outcome == "caught" else f"**{r.outcome}** {r.by}".strip()
        mistake = f"{_code(m.before)} → {_code(m.after)}"
        rows.append(f"| `{m.function}` | {mistake} | {m.place} | {found} | {r.seconds:.0f} |")
    return ["| function | mistake | place | caught by | s |", "|---|---|---|---|--:|", *rows]


def _code(text: str) -> str:
    return "`" + text.replace("\n", "; ").replace("|", "\\|") + "`"
