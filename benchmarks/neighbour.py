"""Distill's page and jobs, timed: `python -m benchmarks.neighbour` (Playwright, system chromium), on an idle machine.

A whole distillation on digits, from its start to its result; softened probabilities at a move of the handle; then L2 of
one session while a job of another trains. The job is as the page begins it: the student with its teacher and the one
without. In the last part it stands still and trains in turns, so that whatever else the machine does falls on both; the
ratio of the medians is its cost.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import modelopt_core as mo
from benchmarks.browser import chromium
from benchmarks.machine import HEADER, machine, row
from benchmarks.screen import DRAWN, STOPS, release
from benchmarks.server import served
from modelopt_core.studies import jobs
from modelopt_core.studies.jobs import Job

ROUNDS = 6  # of STOPS releases each, paused and running
LIMIT_S = 60


MOVES = """() => Array.from({ length: 200 }, (_, i) => {
  const value = 1 + 0.5 * Math.abs((i % 76) - 38), begun = performance.now();
  dispatchEvent(new CustomEvent("modelopt-dial", { detail: { symbol: "T", value } }));
  document.body.getBoundingClientRect();  // style and layout
  return performance.now() - begun;
})"""  # what the Dial says of every value that it passes


def until(job: Job, state: jobs.State) -> None:
    """Wait for a state of the job."""
    end = time.monotonic() + LIMIT_S
    while job.state != state:
        if job.ended or time.monotonic() > end:
            raise SystemExit(f"the job is {job.state} and not {state}: {job.error}")
        time.sleep(0.02)


def whole(step: mo.Distill, folder: Path) -> float:
    """Milliseconds from the start of a job to both students and their measurements."""
    begun = time.perf_counter()
    until(jobs.pair(step, step.alone, "cnn", "digits", owner="another", folder=folder), "done")
    return (time.perf_counter() - begun) * 1e3


def main() -> None:
    """Print the time of a distillation, and L2 with and without a neighbour who trains."""
    print(f"{machine()}\n\n{HEADER}", flush=True)
    with TemporaryDirectory() as folder:
        times_ms = [whole(mo.Distill(), Path(folder)) for _ in range(3)]
        print(row("", "digits: a distillation as a job, both students", times_ms, "≤ 10 000"), flush=True)
    times: dict[str, list[float]] = {"paused": [], "running": []}
    with TemporaryDirectory() as folder, chromium() as browser, served("--no-browser", MODELOPT_JOBS=folder) as address:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}/distill")
        page.wait_for_selector(".softened .columns", timeout=60_000)
        print(row("L5", "softened probabilities, likeness and entropy at another T", page.evaluate(MOVES), "p95 ≤ 5"))
        page.goto(f"{address}/prune")
        page.wait_for_selector(DRAWN, timeout=60_000)
        page.locator(".dial.busy").wait_for(state="detached", timeout=300_000)
        for stop in STOPS:  # measured from now on
            release(page, stop)
        step = mo.Distill(epochs=1000)
        job = jobs.pair(step, step.alone, "cnn", "digits", owner="another", folder=Path(folder))
        try:
            until(job, "running")
            for _ in range(ROUNDS):
                for state, command in (("paused", job.pause), ("running", job.resume)):
                    command()
                    until(job, state)  # type: ignore[arg-type]
                    times[state] += [release(page, stop) for stop in STOPS]
        finally:
            job.cancel()
            until(job, "cancelled")
    print(row("L2", "release to everything updated, another's job paused", times["paused"], "p50 ≤ 200, p95 ≤ 400"))
    print(row("L2", "the same while another's job trains", times["running"], "p50 ≤ 200, p95 ≤ 400"))
    ratio = statistics.median(times["running"]) / statistics.median(times["paused"])
    print(f"| L2 | training / paused, medians | {len(times['running'])} | {ratio:.2f} × | | | | reported |")


if __name__ == "__main__":
    main()
