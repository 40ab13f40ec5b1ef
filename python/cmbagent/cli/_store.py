"""The user's store of runs, as the verbs see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cmbagent._words import ago, one_line
from cmbagent.cli._app import UsageError

if TYPE_CHECKING:
    from cmbagent.store import RunInfo, Store, StoreLike


def the_store() -> Store:
    """Open the user's store.

    Raises:
        UsageError: the environment says that runs are not kept.
        JournalError: it cannot be used.
    """
    from cmbagent.store import open_store

    store = open_store(None)
    if store is None:
        raise UsageError("CMBAGENT_STORE is :memory:, so no run is kept; unset it, or name a file.")
    return store


def warn_of_network(store: StoreLike) -> None:
    """Say so when the store is on a network file system: it is slower there, and its server may lose it."""
    from cmbagent.errors import JournalError
    from cmbagent.store import open_store

    try:
        opened = open_store(store)
    except JournalError:
        return  # the run says so itself when it begins
    if opened is not None and opened.network:
        typer.echo(
            f"note: the store of runs {opened.path} is on {opened.network}, which is slower than a local "
            "disk; CMBAGENT_STORE names another place",
            err=True,
        )


def the_run(store: Store, target: str) -> RunInfo:
    """Find what is meant: an id, its beginning, or a directory's newest run.

    Raises:
        UsageError: there is none.
    """
    from cmbagent.errors import ConfigurationError

    try:
        return store.find(target)
    except ConfigurationError as error:
        raise UsageError(str(error)) from None


def as_dict(info: RunInfo) -> dict[str, Any]:
    """Describe a run for programs; what `--json` gives."""
    return {
        "id": info.id,
        "workflow_id": info.workflow_id,
        "task": info.task,
        "work_dir": info.work_dir,
        "status": info.status,
        "resumable": info.resumable,
        "imported": bool(info.about.get("imported")),
        "usage": info.usage,
        "created": info.created,
        "updated": info.updated,
        "parent": info.parent,
        "owner": None if info.owner is None else {k: info.owner[k] for k in ("pid", "host")},
        "package": info.about.get("package"),
    }


def name_of(info: RunInfo) -> str:
    """Name a run for people: its id, workflow, directory and task."""
    return (
        f"{info.id} ({info.workflow_id}, {info.status}, {ago(info.updated)}, {Path(info.work_dir)}): "
        f"{one_line(info.task, 60)}"
    )
