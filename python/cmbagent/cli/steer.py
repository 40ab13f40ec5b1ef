"""`cmbagent stop`, `cancel` and `pause`: demands of a run that some process runs."""

from __future__ import annotations

import typer

from cmbagent.cli._app import Debug, Target, app
from cmbagent.cli._store import the_run, the_store
from cmbagent.cli._told import Told


@app.command()
def stop(run: Target, debug: Debug = False) -> None:
    """Have a run end before its next phase."""
    _demand(run, "stop", "it ends before its next phase", debug)


@app.command()
def cancel(run: Target, debug: Debug = False) -> None:
    """End a run now: its model call is cut, its script is killed."""
    _demand(run, "cancel", "it ends now", debug)


@app.command()
def pause(run: Target, debug: Debug = False) -> None:
    """Hold a run before its next call, script, question or phase; `cmbagent resume` ends the pause."""
    _demand(run, "pause", "it is held before what comes next; `cmbagent resume` lets it go on", debug)


def _demand(target: str, what: str, then: str, debug: bool) -> None:
    with Told(debug):
        store = the_store()
        info = the_run(store, target)
        store.demand(info.id, what)
        typer.echo(f"{what} was demanded of run {info.id}: {then}.")
