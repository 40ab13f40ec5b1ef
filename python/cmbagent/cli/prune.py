"""`cmbagent prune`: deleting what the store has of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cmbagent.cli._app import AsJson, Debug, UsageError, Yes, app
from cmbagent.cli._store import as_dict, name_of, the_run, the_store
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.store import RunInfo


@app.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Runs whose last change is older.")
    ] = None,
    run: Annotated[list[str] | None, typer.Option(help="This run; may be repeated.")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Delete the records of runs; what they wrote to their work directories stays.

    Shows what would be deleted. A terminal then asks; elsewhere nothing is deleted without --yes.
    """
    from cmbagent.approvals.choice import is_interactive

    told = Told(debug, as_json)
    with told:
        if older_than is None and not run:
            raise UsageError("Say which runs: --older-than DAYS, or --run ID.")
        store = the_store()
        chosen = [the_run(store, each) for each in run or ()]
        if older_than is not None:
            chosen += store.older_than(older_than)
        doomed = store.with_children(chosen)
        for info in doomed:
            typer.echo(name_of(info), err=as_json)
        agreed = yes or (bool(doomed) and is_interactive() and typer.confirm(_question(doomed), err=as_json))
        if agreed:
            store.delete_all(doomed)
        found = {"runs": [as_dict(info) for info in doomed], "deleted": agreed}
        told.say(found, _outcome(doomed, agreed))


def _question(doomed: list[RunInfo]) -> str:
    return f"Delete the records of {_count(doomed)}?"


def _outcome(doomed: list[RunInfo], deleted: bool) -> str:
    if not doomed:
        return "No such run: nothing to delete."
    if deleted:
        return f"Deleted the records of {_count(doomed)}; work directories are as they were."
    return f"Nothing was deleted: --yes deletes the records of {_count(doomed)}."


def _count(runs: list[RunInfo]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"
