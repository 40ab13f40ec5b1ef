"""`cmbagent stop`, `cancel` and `pause`: demands of a run that some process runs."""

from __future__ import annotations

from cmbagent.cli._app import AsJson, Debug, Target, app
from cmbagent.cli._store import the_run, the_store
from cmbagent.cli._told import Told


@app.command()
def stop(run: Target, as_json: AsJson = False, debug: Debug = False) -> None:
    """Have a run end before its next phase."""
    _demand(run, "stop", "it ends before its next phase", Told(debug, as_json))


@app.command()
def cancel(run: Target, as_json: AsJson = False, debug: Debug = False) -> None:
    """End a run now: its model call is cut, its script is killed."""
    _demand(run, "cancel", "it ends now", Told(debug, as_json))


@app.command()
def pause(run: Target, as_json: AsJson = False, debug: Debug = False) -> None:
    """Hold a run before its next call, script, question or phase; `cmbagent resume` ends the pause."""
    _demand(
        run,
        "pause",
        "it is held before what comes next; `cmbagent resume` lets it go on",
        Told(debug, as_json),
    )


def _demand(target: str, what: str, then: str, told: Told) -> None:
    with told:
        store = the_store()
        info = the_run(store, target)
        store.demand(info.id, what)
        told.say({"run": info.id, "demand": what}, f"{what} was demanded of run {info.id}: {then}.")
