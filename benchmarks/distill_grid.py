"""The response curve of Distill that ships with the project: `python -m benchmarks.distill_grid`.

Digits, the cnn as teacher, every other setting at its default: the student at each temperature and without a teacher,
from five seeds. Numbers go to assets/measured, the models of seed 0 beside them, so that these settings are at hand.
Every call goes on where the last one was stopped.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import modelopt_core as mo
from benchmarks.machine import machine
from modelopt_core.machine import atomic
from modelopt_core.machine.cache import STORE
from modelopt_core.machine.digest import CODE_VERSION
from modelopt_core.machine.folders import asset_path
from modelopt_core.models import identity
from modelopt_core.studies import shipped_curves

WORKLOAD, TEACHER, FIELD = "digits", "cnn", "temperature"
VALUES = (1.0, 20.0, 10.0, 5.0, 2.5, 15.0, 1.5, 3.5, 7.0, 12.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # coarse to fine
SEEDS = range(5)
TRIES, SPREAD = 20, 1.3  # of a timing, until its upper quartile is at most so many times the lower one


def main() -> None:
    """Measure what is missing, one model after the other."""
    torch.set_num_threads(1)
    w, teacher, step = mo.workload(WORKLOAD), mo.baseline(WORKLOAD, TEACHER), mo.Distill()
    path = asset_path(shipped_curves.FOLDER, f"{WORKLOAD}-{TEACHER}-{step.name.lower()}.json")
    known = json.loads(path.read_text()) if path.exists() else {}
    rows: dict[str, list[Any]] = {"points": known.get("points", []), "beside": known.get("beside", [])}
    told = {
        "step": json.loads(mo.to_json([step]))["steps"][0],
        "field": FIELD,
        "model": identity.key(teacher),
        "data": w.data_hash,
        "code": CODE_VERSION,
        "machine": machine(),
    }
    for seed in SEEDS:
        for value in (None, *VALUES):
            setting = step.alone if value is None else step.changed(**{FIELD: value})
            name, place = ("beside", [seed]) if value is None else ("points", [value, seed])
            there, key = any(row[:-1] == place for row in rows[name]), setting.key([teacher], w)
            if there and (seed or shipped_curves.recall(key)):
                continue
            student = setting.apply(teacher, w, seed=seed)
            if seed == 0:
                mo.save(student, asset_path(shipped_curves.FOLDER, f"{key}.mopt"))
            if not there:
                rows[name].append([*place, asdict(timed(student, teacher, w))])
            write(path, told, rows)
            print(seed, value, rows[name][-1][-1]["score"]["value"], flush=True)


def timed(student: nn.Module, teacher: nn.Module, w: mo.Workload) -> mo.Measurement:
    """Measured on val; a few times over where something else ran on the machine meanwhile."""
    for _ in range(TRIES):
        STORE.clear()
        found = mo.measure(student, w, baseline=teacher)
        if not found.noisy and found.speedup.high < SPREAD * found.speedup.low:
            break
    return found


def write(path: Path, told: dict[str, object], rows: dict[str, list[Any]]) -> None:
    """One point a line, so that a change can be read."""
    lists = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, found)) + "\n ]" for name, found in rows.items()]
    fields = [f' "{name}": {json.dumps(value)}' for name, value in told.items()]
    atomic.write(path, ("{\n" + ",\n".join([*fields, *lists]) + "\n}\n").encode())


if __name__ == "__main__":
    main()
