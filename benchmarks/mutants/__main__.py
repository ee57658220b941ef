"""Mutants: does a test notice each of these mistakes?

    python -m benchmarks.mutants                          all of them, two at a time; writes results/mutants.md
    python -m benchmarks.mutants steps.prune …    those whose function or place contains a word

Exit status 1 where one of the named places lives, or fewer than 95 % are caught. A mutant leaves the list only with a
reason, in removed.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.ledger import RESULTS
from benchmarks.machine import machine
from benchmarks.mutants import combine, core, files, prune, quantize
from benchmarks.mutants.removed import REMOVED
from benchmarks.mutants.trial import PLACES, ROOT, Mutant, Result, Trials, status, table

MUTANTS: tuple[Mutant, ...] = (*prune.MUTANTS, *quantize.MUTANTS, *combine.MUTANTS, *files.MUTANTS, *core.MUTANTS)
AT_ONCE = 2


def main(words: Sequence[str]) -> int:
    """Run, print, and where all ran, write."""
    chosen = [m for m in MUTANTS if not words or any(word in m.function or word == m.place for word in words)]
    tests = sorted({test for m in chosen for test in m.tests.split()})
    start = time.monotonic()
    if not chosen or subprocess.run([sys.executable, "-m", "pytest", "-x", *tests], cwd=ROOT).returncode:
        print("no such mutant" if not chosen else "the tests do not pass on the code as it is; mend them first")
        return 2
    waiting, results = deque(enumerate(chosen)), dict[int, Result]()

    def work() -> None:
        trials = Trials()
        while waiting:
            at, mutant = waiting.popleft()
            results[at] = result = trials.tried(mutant)
            print(f"{result.outcome:7}{result.seconds:4.0f} s  {mutant.text}  {result.by}", flush=True)
        trials.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(work) for _ in range(AT_ONCE)]:
            done.result()
    ordered = [results[at] for at in sorted(results)]
    text = report(ordered, time.monotonic() - start)
    if not words:
        (RESULTS / "mutants.md").write_text(text, encoding="utf-8")
    print(text.split("\n\n")[2])
    return status(ordered)


def report(results: Sequence[Result], seconds: float) -> str:
    """The results as Markdown."""
    caught, named = sum(r.outcome == "caught" for r in results), [r for r in results if r.mutant.place]
    of_places = sum(r.outcome == "caught" for r in named)
    lines = [
        "# Mutants of the core",
        "",
        "`python -m benchmarks.mutants`: one mistake at a time in one function, and the tests named beside it.",
        machine(),
        "",
        f"{caught} of {len(results)} caught, among them {of_places} of {len(named)} in the {len(PLACES)} places where",
        f"mistakes once went unnoticed; {seconds / 60:.0f} minutes, {AT_ONCE} at a time.",
        "",
        *table(results),
        "",
        "## Not on the list, and why",
        "",
        *[f"- `{m.function}`: `{m.before}` → `{m.after}`: {reason}" for m, reason in REMOVED],
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
