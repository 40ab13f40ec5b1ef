"""What a task has cost, agent by agent: as rows, for people, and as a file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_NUMBERS = ("Cost ($)", "Prompt Tokens", "Completion Tokens", "Total Tokens")
COLUMNS = ("Agent", *_NUMBERS, "Model")
"""The columns of a cost report."""


def total(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add rows of several reports up.

    Args:
        rows: rows without totals.

    Returns:
        One row for each pair of agent and model, then the row `Total`. A model without a price has the cost
        `None`, and adds nothing to the total.
    """
    table: dict[tuple[str, str], dict[str, Any]] = {}
    end: dict[str, Any] = {"Agent": "Total", **dict.fromkeys(_NUMBERS, 0), "Model": None}
    for row in rows:
        empty = {"Agent": row["Agent"], **dict.fromkeys(_NUMBERS), "Model": row["Model"]}
        own = table.setdefault((row["Agent"], row["Model"]), empty)
        for name in _NUMBERS:
            if row[name] is not None:
                own[name] = (own[name] or 0) + row[name]
                end[name] += row[name]
    return [*table.values(), end]


def write(rows: list[dict[str, Any]], directory: Path, name: str | None) -> Path:
    """Write rows to `cost_report_<name>_<time>.json`, a file of its own each time."""
    stem = "_".join(part for part in ("cost_report", name, time.strftime("%Y%m%d_%H%M%S")) if part)
    directory.mkdir(parents=True, exist_ok=True)
    file, number = directory / f"{stem}.json", 1
    while file.exists():
        number += 1
        file = directory / f"{stem}_{number}.json"
    file.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return file


def frame(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a pandas `DataFrame` whose last index is `Total`; without pandas, as they are."""
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return rows
    return pd.DataFrame(rows, index=[*range(len(rows) - 1), "Total"], columns=list(COLUMNS))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table for people: names to the left, numbers to the right."""
    lines = [list(COLUMNS)]
    for row in rows:
        cost = "no price" if row["Cost ($)"] is None else f"${row['Cost ($)']:.8f}"
        lines.append(
            [row["Agent"], cost, *(str(row[name] or 0) for name in _NUMBERS[1:]), row["Model"] or ""]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def shown(line: list[str]) -> str:
        first, *rest = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]
        return f"| {' | '.join(cells)} |\n"

    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return shown(lines[0]) + shown(rule) + "".join(map(shown, lines[1:]))
