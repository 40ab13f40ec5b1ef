"""`cmbagent workflows`: what there is to run."""

from __future__ import annotations

import typer

from cmbagent.cli._app import app


@app.command()
def workflows() -> None:
    """List the workflows that `cmbagent run` knows."""
    from cmbagent.workflows import SYSTEM_WORKFLOWS

    width = max(len(name) for name in SYSTEM_WORKFLOWS)
    for name, each in SYSTEM_WORKFLOWS.items():
        phases = " → ".join(phase["type"] for phase in each.phases)
        typer.echo(f"{name:<{width}}  {each.name}: {phases}")
