"""A class of thirty moves the same slider: `python -m benchmarks.crowd`, on an idle machine (about three minutes).

    python -m benchmarks.crowd             30 sessions, 20 moves each, 4 s between them; writes results/crowd.md
    python -m benchmarks.crowd 3 3         3 sessions, 3 moves each, printed only

Every session is a thread that makes the pages' own calls, without drawing: it releases a setting drawn uniformly from
the slider's grid by its seed, waits for the numbers, asks for the curve, thinks, and releases the next. Afterwards each
answer is compared with what one thread alone measures.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import modelopt_core as mo
from benchmarks.machine import HEADER, machine, row
from modelopt_core.machine import cores
from modelopt_core.machine.cache import STORE
from modelopt_core.measuring.measurement import SESSIONS as COMPILED
from modelopt_core.studies.background import SWEEPER
from pages.state import knob
from pages.state.bench import Bench
from pages.state.setting import Setting
from pages.work import trial

WORKLOAD, MODEL = "mnist", "lenet5"
SESSIONS, MOVES, THINKS_S = 30, 20, 4.0
RESULTS = Path(__file__).parent / "results" / "crowd.md"

Answer = tuple[float, int, int, int, float, int]  # all that does not depend on the clock


@dataclass(frozen=True)
class Move:
    """A released setting. told: the people before, each time that the session was told."""

    ratio: float
    ms: float
    answer: Answer
    told: tuple[int, ...]


def setting(ratio: float) -> Setting:
    """The page Prune at this ratio, all else as it opens; a copy of the model, as a session of its own would have."""
    bench = Bench(mo.workload(WORKLOAD), MODEL, mo.baseline(WORKLOAD, MODEL), "onnx", "cpu", "tune")
    return Setting(bench, mo.Prune(ratio=ratio))


def answer(ratio: float) -> Answer:
    """What the cards show of the setting, but for the latency."""
    found = trial.measure(setting(ratio))
    m = found.measurement
    return (m.score.value, m.size_bytes, m.macs, m.nonzero, found.comparison.delta.value, len(found.comparison.changed))


def release(ratio: float) -> Move:
    """One move, timed from the release to the numbers; the curve is asked for as the Dial does."""
    told: list[int] = []
    start = time.perf_counter()
    with cores.asking(told.append):
        found = answer(ratio)
    ms = (time.perf_counter() - start) * 1e3
    asked = setting(ratio)
    trial.sweep(asked, knob.of_field(asked.step, "ratio"))
    return Move(ratio, ms, found, tuple(told))


def session(seed: int, moves: int) -> list[Move]:
    """The page as it opens, then so many moves."""
    draw = random.Random(seed)
    stops = mo.Prune.knob("ratio").stops
    ratios = [mo.Prune().ratio, *(draw.choice(stops) for _ in range(moves))]
    time.sleep(draw.uniform(0, THINKS_S))  # nobody clicks in step
    made = []
    for ratio in ratios:
        made.append(release(ratio))
        time.sleep(THINKS_S)
    return made


def table(played: list[list[Move]]) -> str:
    """The measured waits, and how many answers one thread alone would have given otherwise."""
    alone = cache(answer)
    opened, moves = [made[0] for made in played], [move for made in played for move in made[1:]]
    both = [*opened, *moves]
    wrong = sum(move.answer != alone(move.ratio) for move in both)
    told, most = [move for move in both if move.told], max((max(move.told) for move in both if move.told), default=0)
    long = sum(move.ms > cores.TELL_AFTER_S * 1e3 for move in both)
    settings = len({move.ratio for move in moves})
    who = f"{WORKLOAD} {MODEL}, {len(played)} sessions, {THINKS_S:g} s between moves"
    rows = (
        HEADER,
        row("", f"{who}: release to numbers", [move.ms for move in moves], "reported"),
        row("", f"of each of the {settings} settings, the longest wait", _longest(moves), "reported"),
        row("", "the same sessions: the first numbers of the page", [move.ms for move in opened], "reported"),
        "",
        f"Answers that differ from what one thread alone gives: {wrong} of {len(both)}.",
        f"Waits over {cores.TELL_AFTER_S:g} s: {long}; told their place meanwhile: {len(told)}, at most {most} before.",
        "Who makes the numbers is not in line, and so is told nothing.",
    )
    return "\n".join(rows)


def _longest(moves: list[Move]) -> list[float]:
    """Of every setting, the milliseconds of the move that waited longest for it: later ones found it at hand."""
    longest: dict[float, float] = {}
    for move in moves:
        longest[move.ratio] = max(move.ms, longest.get(move.ratio, 0.0))
    return list(longest.values())


def main(arguments: list[str]) -> None:
    """Play, check and print; the whole class is written down."""
    sessions, moves = map(int, arguments) if arguments else (SESSIONS, MOVES)
    logging.disable(logging.WARNING)  # Streamlit misses a browser
    mo.baseline(WORKLOAD, MODEL), mo.workload(WORKLOAD)
    with ThreadPoolExecutor(sessions) as threads:
        played = list(threads.map(session, range(sessions), [moves] * sessions))
    SWEEPER.stop()
    STORE.clear()
    COMPILED.clear()
    text = f"{machine()}\n\n{table(played)}\n"
    print(text, flush=True)
    if not arguments:
        RESULTS.write_text(f"# A class moves one slider\n\n`python -m benchmarks.crowd` on {text}", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
