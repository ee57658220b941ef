"""R10: several people at once, each against what one person alone would have seen."""

import random
from concurrent.futures import ThreadPoolExecutor

import torch

import modelopt_core as mo
from modelopt_core.machine.cache import STORE

SESSIONS, MOVES = 4, 50


def moves(seed: int) -> list[tuple[str, mo.Transform]]:
    draw = random.Random(seed)
    steps = []
    for _ in range(MOVES):
        if draw.random() < 0.5:
            granularity = draw.choice(["weight", "channel", "n:m", "block"])
            fit = [n for n, e in mo.CRITERIA.items() if granularity in e["granularity"] and n != "bn_scale"]
            step = mo.Prune(ratio=draw.randrange(100) / 100, criterion=draw.choice(fit), granularity=granularity)
        else:
            step = mo.Quantize(bits=draw.randrange(1, 9), per=draw.choice(["tensor", "channel"]))
        steps.append((draw.choice(["cnn", "mlp"]), step))
    return steps


def play(seed: int) -> list[tuple[float, int, int]]:
    w, seen = mo.workload("digits"), []
    for name, step in moves(seed):
        found = mo.run((step,), [mo.baseline("digits", name)], w)[-1].measurement
        seen.append((found.score.value, found.size_bytes, found.macs))
    return seen


def test_four_sessions_of_fifty_moves_equal_a_single_threaded_oracle():
    weights = {n: mo.baseline("digits", n).state_dict() for n in ("cnn", "mlp")}
    with ThreadPoolExecutor(SESSIONS) as pool:
        together = list(pool.map(play, range(SESSIONS)))
    STORE.clear()
    alone = [play(seed) for seed in range(SESSIONS)]
    assert together == alone
    for name, before in weights.items():
        after = mo.baseline("digits", name).state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)
