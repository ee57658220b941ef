"""The tables, from what was measured: errors on the 10,000 test images, and the gap closed on digits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats as distributions

from benchmarks.distill.loop import KINDS
from benchmarks.distill.mnist import LONG_EPOCHS, TEMPERATURES
from modelopt_core.steps.distill.gap_closed import closed
from modelopt_core.tasks.statistics import mcnemar

SEEDS, TESTED = 5, 10_000


def tables(rows: dict[str, Any]) -> Iterator[str]:
    """Markdown: errors on the 10,000 test images."""
    if "teacher" in rows:
        yield f"Teacher 784-1200-1200-10: {len(rows['teacher']['wrong'])} errors (the paper: 67)."
    seeds = [s for s in range(SEEDS) if f"seed {s} alone" in rows and f"seed {s} distilled" in rows]
    if seeds:
        yield from hinton(rows, seeds)
    yield from widths(rows)
    for what, title in (("long", f"800-800, {LONG_EPOCHS} epochs"), ("300-100", "300-100")):
        for name in ("alone", "distilled"):
            found = [len(row["wrong"]) for key, row in rows.items() if key.startswith(what) and key.endswith(name)]
            if found:
                yield f"{title}, {name}: {np.mean(found):.1f} errors over {len(found)} seeds {found}"
    for name in KINDS:
        if row := rows.get(f"digits {name}"):
            share = "no clear gap" if row["share"] is None else "{:.0%} ({:.0%} to {:.0%})".format(*row["share"])
            more = np.array(rows["digits kl"]["distilled"]) - row["distilled"]
            means = f"{np.mean(row['alone']):.3f} → {np.mean(row['distilled']):.3f}"
            yield f"digits, {name}: {means}, gap closed {share}; kl against it: {paired(100 * more)} points"
    if row := rows.get("digits kl"):
        gains = np.array(row["distilled"]) - row["alone"]
        better, worse, median = (gains > 0).sum(), (gains < 0).sum(), 100 * np.median(gains)
        yield f"digits, kl seed by seed: {better} better, {worse} worse, median {median:+.2f} points"


def widths(rows: dict[str, Any]) -> Iterator[str]:
    """Mean errors ± their standard deviation over seeds at every temperature, by units a layer."""
    names = ("alone", *(f"T {t:g}" for t in TEMPERATURES))
    yield "\n| units | seeds | " + " | ".join(names) + " |\n|--:|--:|" + "--:|" * len(names)
    for units in (30, 300, 800):
        found = [[len(r["wrong"]) for k, r in rows.items() if k.startswith(f"width {units} {n} seed")] for n in names]
        if any(found):
            seeds = sorted({len(errors) for errors in found if errors})
            cells = [
                f"{np.mean(errors):.1f} ± {np.std(errors, ddof=len(errors) > 1):.1f}" if errors else ""
                for errors in found
            ]
            yield f"| {units} | {'–'.join(map(str, seeds))} | " + " | ".join(cells) + " |"


def paired(differences: np.ndarray) -> str:
    """Mean difference over seeds with the 95 % interval of a paired t-test."""
    if not differences.any():
        return "0"
    low, high = distributions.ttest_1samp(differences, 0).confidence_interval(0.95)
    return f"{differences.mean():+.2f} ({low:.2f} to {high:.2f})"


def hinton(rows: dict[str, Any], seeds: list[int]) -> Iterator[str]:
    """Both students seed by seed; then the mean difference over seeds, and over seeds and images."""
    yield "\n| seed | alone | distilled | won | lost | p (McNemar) |\n|--:|--:|--:|--:|--:|--:|"
    right = {name: np.ones((len(seeds), TESTED)) for name in ("alone", "distilled")}
    for i, seed in enumerate(seeds):
        for name, scores in right.items():
            scores[i, rows[f"seed {seed} {name}"]["wrong"]] = 0
        flips = mcnemar(right["alone"][i], right["distilled"][i])
        errors = [int(TESTED - scores[i].sum()) for scores in right.values()]
        yield f"| {seed} | {errors[0]} | {errors[1]} | {flips.won} | {flips.lost} | {flips.p:.2g} |"
    errors_of = {name: TESTED - scores.sum(axis=1) for name, scores in right.items()}
    known = np.ones(TESTED)
    known[rows["teacher"]["wrong"]] = 0
    found = closed(known, right["alone"], right["distilled"])
    fewer = errors_of["alone"] - errors_of["distilled"]
    yield f"\nMean errors: alone {errors_of['alone'].mean():.1f}, distilled {errors_of['distilled'].mean():.1f}."
    if len(seeds) > 1:
        test = distributions.ttest_rel(errors_of["alone"], errors_of["distilled"])
        low, high = test.confidence_interval(0.95)
        yield f"Fewer errors: {fewer.mean():.1f} ({low:.1f} to {high:.1f}, paired t over seeds, p = {test.pvalue:.2g})."
    gain = [TESTED * x for x in (found.gain.value, found.gain.low, found.gain.high)]
    yield "Over seeds and images: {:.1f} ({:.1f} to {:.1f}).".format(*gain)
    if found.share:
        yield f"Gap closed: {found.share.value:.0%} ({found.share.low:.0%} to {found.share.high:.0%})."
