"""`cmbagent runs`: what the store has."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmbagent._words import ago, dollars, one_line
from cmbagent.cli._app import AsJson, Debug, UsageError, app
from cmbagent.cli._store import as_dict, the_store
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.store import RunInfo

_STATUSES = (
    "pending", "running", "waiting_approval", "paused", "stopping",
    "stopped", "cancelled", "failed", "completed", "interrupted",
)  # fmt: skip


@app.command()
def runs(
    status: Annotated[
        list[str] | None, typer.Option(help="Only runs of this status; may be repeated.")
    ] = None,
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Only runs in this directory.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Only runs of the last so many days.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also runs that phases of other runs made.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the runs that are kept, the newest first.

    A run whose process has gone is `interrupted`; `cmbagent resume` goes on with it.
    """
    told = Told(debug, as_json)
    with told:
        unknown = [word for word in status or () if word not in _STATUSES]
        if unknown:
            raise UsageError(f"{unknown[0]!r} is no status; there are: {', '.join(_STATUSES)}")
        store = the_store()
        since = None if days is None else time.time() - days * 86400
        found = [
            info
            for info in store.runs(work_dir)
            if (not status or info.status in status)
            and (workflow is None or info.workflow_id == workflow)
            and (since is None or info.updated >= since)
            and (everything or info.parent is None)
        ]
        if not found and not as_json:
            filtered = status or workflow is not None or work_dir is not None or days is not None
            typer.echo(f"{'No such run' if filtered else 'No run yet'} in {store.path}.", err=True)
        if found or as_json:
            told.say([as_dict(info) for info in found], "\n".join(_table(found)) if found else "")


def _table(found: list[RunInfo]) -> list[str]:
    short = _shortest(found)
    rows = [("RUN", "STATUS", "WORKFLOW", "CHANGED", "COST", "TASK")]
    for info in found:
        cost = info.usage.get("cost")
        rows.append((
            info.id[:short],
            info.status + (" (imported)" if info.about.get("imported") else ""),
            one_line(info.workflow_id, 24),
            ago(info.updated),
            "" if cost is None else dollars(cost),
            one_line(info.task, 200),
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    columns = shutil.get_terminal_size((160, 24)).columns
    lines = []
    for row in rows:
        head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"{head}  {one_line(row[5], max(20, columns - len(head) - 2))}".rstrip())
    return lines


def _shortest(found: list[RunInfo]) -> int:
    """How many characters of their ids tell the runs apart, eight at least."""
    longest = max(len(info.id) for info in found)
    enough = (n for n in range(8, longest) if len({info.id[:n] for info in found}) == len(found))
    return next(enough, longest)
