"""`cmbagent serve`: the REST API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cmbagent.cli._app import AsJson, Debug, UsageError, app
from cmbagent.cli._told import Told


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 has the system choose.")] = 8000,
    root: Annotated[Path, typer.Option(help="Runs get their directories below it.")] = Path(
        "~/cmbagent_output"
    ),
    store: Annotated[
        Path | None, typer.Option(help="The file that keeps workflows and runs; else CMBAGENT_STORE.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name under which clients ask for this server.")
    ] = None,
    max_runs: Annotated[int, typer.Option(min=1, help="Runs in progress at the same time.")] = 500,
    resume: Annotated[bool, typer.Option(help="Go on with the runs that an earlier server has left.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Serve the REST API: run, watch, approve and stop workflows from anywhere.

    Keys of models are read from the environment. Beyond this machine (--host) clients must send the token
    that is in CMBAGENT_TOKEN. The API is described at /docs. With --json the address is told once clients
    may ask there.
    """
    told = Told(debug, as_json)

    def listening(address: str) -> None:
        if as_json:
            told.say(
                {"address": address, "api": f"{address}/api/phases", "token": settings.token is not None}, ""
            )
            sys.stdout.flush()

    with told:
        try:
            from cmbagent.backend.serve import serve as serve_app
            from cmbagent.backend.settings import Settings
        except ModuleNotFoundError as error:
            raise UsageError(f"{error.name} is missing: pip install 'cmbagent[server]'") from error
        settings = Settings.from_environment(
            host=host,
            port=port,
            root=root,
            hosts=tuple(allow_host or ()),
            max_runs=max_runs,
            resume=resume,
        )
        serve_app(settings, store, quiet=quiet, listening=listening)
