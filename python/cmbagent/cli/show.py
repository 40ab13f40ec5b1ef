"""`cmbagent show`: what happened in a run."""

from __future__ import annotations

import json

import typer

from cmbagent.cli._app import AsJson, Debug, Target, app
from cmbagent.cli._store import as_dict, the_run, the_store
from cmbagent.cli._told import Told


@app.command()
def show(run: Target, as_json: AsJson = False, debug: Debug = False) -> None:
    """Show what happened in a run: phases, steps, calls, scripts, costs, files, its error, its questions."""
    from cmbagent._timeline import timeline
    from cmbagent._timeline_page import page

    with Told(debug):
        store = the_store()
        info = the_run(store, run)
        found = timeline(store, info.id)
        if as_json:
            typer.echo(json.dumps({"run": as_dict(info), **found}, indent=2, ensure_ascii=False))
        else:
            typer.echo("\n".join(page(info, found)))
