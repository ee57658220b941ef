"""A report in parts: each is measured when it is asked for, the others stay as they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from benchmarks.ledger import RESULTS
from benchmarks.machine import machine
from modelopt_core.errors import ModelOptError

MARK = "<!-- part: {} -->\n"


def write(name: str, title: str, tables: Mapping[str, Callable[[], Iterator[str]]], asked: Sequence[str]) -> None:
    """Run the parts that are asked for, or all; print their lines and keep them in `results/<name>.md`."""
    if unknown := [part for part in asked if part not in tables]:
        raise ModelOptError(f"unknown part {unknown[0]!r}; choose from {', '.join(tables)}")
    path = RESULTS / f"{name}.md"
    text = path.read_text() if path.exists() else ""
    kept = dict(re.findall(r"<!-- part: (\w+) -->\n(.*?)(?=<!-- part|\Z)", text, re.S))
    for part in asked or tables:
        lines = [f"*{machine()}*", ""]
        for line in tables[part]():
            print(line, flush=True)
            lines.append(line)
        kept[part] = "\n".join(lines) + "\n\n"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {title}\n\n" + "".join(MARK.format(n) + kept[n] for n in tables if n in kept))
