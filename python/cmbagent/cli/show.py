"""`cmbagent show`: what happened in a run."""

from __future__ import annotations

from cmbagent.cli._app import AsJson, Debug, Target, app
from cmbagent.cli._store import as_dict, the_run, the_store
from cmbagent.cli._told import Told


@app.command()
def show(run: Target, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what happened in a run: phases, steps, calls, scripts, costs, files, its error, its questions."""
    from cmbagent._timeline import timeline
    from cmbagent._timeline_page import page

    told = Told(debug, as_json)
    with told:
        store = the_store()
        info = the_run(store, run)
        found = timeline(store, info.id)
        told.say({"run": as_dict(info), **found}, "\n".join(page(info, found)))
