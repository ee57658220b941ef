"""A guard for changes that must change nothing: every zoo model × twelve settings over all steps, on two commits.

`python -m benchmarks.golden --against COMMIT` runs this tree and that commit on the same machine and threads, one after
the other, through public calls only, and lists every difference in key, score, MACs, bytes and the file's sha256.
Latency is left out. Exit status 1 where anything differs. `--write` keeps this tree's numbers of digits for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "tests" / "golden.json"
FIELDS = ("key", "score", "macs", "size_bytes", "sha256", "error")
QUICK = {"epochs": 1}

Row = dict[str, Any]


def settings(mo: Any) -> dict[str, list[Any]]:
    """Twelve recipes by name, over all steps; a Combine among them takes the model and a 4-bit copy of it."""
    return {
        "weights": [mo.Prune(ratio=0.5, granularity="weight")],
        "n_of_m": [mo.Prune(ratio=0.5, granularity="n:m", criterion="l2")],
        "fisher": [mo.Prune(ratio=0.4, granularity="channel", criterion="fisher")],
        "int8": [mo.Quantize(bits=8)],
        "codebook": [mo.Quantize(bits=3, scheme="codebook")],
        "gptq": [mo.Quantize(bits=2, rounding="gptq", examples=128)],
        "cut_quantize": [mo.Prune(ratio=0.3, granularity="channel"), mo.Quantize(bits=4)],
        "finetune": [mo.Prune(ratio=0.3, granularity="channel"), mo.Finetune(**QUICK)],
        "distill": [mo.Distill(**QUICK)],
        "ensemble": [mo.Ensemble(), mo.Quantize(bits=8)],
        "cascade": [mo.Cascade(threshold=0.8)],
        "fuse": [mo.Fuse(of="outputs")],
    }


def parts(workload: str) -> dict[str, str]:
    """The subtask that a zoo model of this name learned."""
    experts = {f"expert-{n}": f"experts/{n}" for n in range(1, 4)}
    return {**experts, **{name: name for name in ("groups", "quality", "repair", "locate")}}


def measured(workloads: list[str]) -> Iterator[Row]:
    """One row a cell, of the `modelopt_core` that this interpreter imports."""
    import modelopt_core as mo

    index = json.loads((Path(mo.__file__).parents[1] / "assets" / "zoo" / "index.json").read_text())
    for name in index:
        workload, _, model = name.partition("/")
        if workload not in workloads:
            continue
        whole = mo.workload(workload)
        data = mo.part(whole, parts(workload)[model]) if model in parts(workload) else whole
        for setting, recipe in settings(mo).items():
            yield {"cell": f"{name} {setting}", **_cell(mo, recipe, mo.baseline(workload, model), data)}
        if model == "groups":
            experts = [mo.baseline(workload, f"expert-{n}") for n in range(1, 4) if f"{workload}/expert-{n}" in index]
            pool = [mo.baseline(workload, "groups"), *experts]
            yield {"cell": f"{name} pipeline", **_cell(mo, [mo.Pipeline()], pool, whole)}


def _cell(mo: Any, recipe: list[Any], start: Any, data: Any) -> Row:
    """The last model of a recipe: a refusal counts as an answer, and so does a defect's first line."""
    models, keys = start if isinstance(start, list) else [start], []
    try:
        for step in recipe:
            if isinstance(step, mo.Combine):
                pool = models if len(models) > 1 else [*models, mo.Quantize(bits=4).apply(models[0], data)]
                keys.append(step.key(pool, data))
                models = [step.apply(pool, data)]
            else:
                keys.append(step.key(models, data))
                models = [step.apply(models[0], data)]
        found = mo.measure(models[0], data)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    row = {"key": keys[-1], "score": found.score.value, "macs": found.macs, "size_bytes": found.size_bytes}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.mopt"
        try:
            mo.save(models[0], path)
            row["sha256"] = sha256(path.read_bytes()).hexdigest()
        except mo.ModelOptError as error:
            row["error"] = str(error)[:160]
    return row


def differences(old: list[Row], new: list[Row], fields: tuple[str, ...] = FIELDS) -> list[str]:
    """One line for each field of each cell that differs, or that only one side has."""
    before, after = ({row["cell"]: row for row in rows} for rows in (old, new))
    lines = [f"{cell}: only in {'old' if cell in before else 'new'}" for cell in sorted(before.keys() ^ after.keys())]
    for cell in before.keys() & after.keys():
        was, now = before[cell], after[cell]
        lines += [f"{cell}: {f} {was.get(f)} → {now.get(f)}" for f in fields if was.get(f) != now.get(f)]
    return sorted(lines)


def of_tree(tree: Path, workloads: list[str]) -> list[Row]:
    """What `measured` says with the code of a tree, in a process of its own; this file drives both sides."""
    call = f"import sys; sys.path.insert(0, {str(tree)!r}); from importlib.util import spec_from_file_location as s, "
    call += f"module_from_spec as m; p = s('golden', {str(Path(__file__))!r}); g = m(p); p.loader.exec_module(g); "
    call += f"import json; [print('@' + json.dumps(r), flush=True) for r in g.measured({workloads!r})]"
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", call], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr.strip().splitlines()[-1]}")
    return [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@")]


def main() -> None:
    """Compare with a commit, or write the numbers that the tests read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__)
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--workloads", nargs="+", default=["digits", "docstrings", "mnist"])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.write:
        rows = list(of_tree(ROOT, ["digits"]))
        KEPT.write_text(json.dumps(rows, indent=0) + "\n")
        print(f"{len(rows)} cells in {KEPT.relative_to(ROOT)}")
    if given.against:
        with tempfile.TemporaryDirectory() as folder:
            old_tree = Path(folder) / "old"
            subprocess.run(["git", "worktree", "add", "-q", "--detach", old_tree, given.against], cwd=ROOT, check=True)
            try:
                old, new = of_tree(old_tree, given.workloads), of_tree(ROOT, given.workloads)
            finally:
                subprocess.run(["git", "worktree", "remove", "--force", old_tree], cwd=ROOT, check=True)
        lines = differences(old, new)
        print(*lines, f"{len(old)} cells, {len(lines)} differences", sep="\n")
        raise SystemExit(bool(lines))


if __name__ == "__main__":
    main()
