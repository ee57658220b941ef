"""Tables that leave the screen: CSV whose text cells no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may run; OWASP, CSV injection

Cell = str | float | int | bool | None


def to_csv(rows: Sequence[Mapping[str, Cell]]) -> str:
    """CSV text with a header line; text that begins like a formula gets a quote before it."""
    file = io.StringIO()
    names = list(rows[0]) if rows else []
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([safe(name) for name in names])
    writer.writerows([[safe(row.get(name)) for name in names] for row in rows])
    return file.getvalue()


def safe(cell: Cell) -> Cell:
    """The cell; text that a spreadsheet would run is made plain text."""
    if isinstance(cell, str) and (cell.startswith(FORMULA) or cell.lstrip().startswith(FORMULA)):
        return f"'{cell}"
    return cell
