"""`cmbagent demo`: a workflow without keys and network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmbagent.cli._app import Debug, app
from cmbagent.cli._told import Told


@app.command()
def demo(
    work_dir: Annotated[Path, typer.Option(help="Where everything lands.")] = Path("demo_output"),
    debug: Debug = False,
) -> None:
    """Run a whole research workflow here, with scripted models: no key, no network."""
    from cmbagent.demo import run_demo

    with Told(debug):
        raise typer.Exit(run_demo(work_dir))
