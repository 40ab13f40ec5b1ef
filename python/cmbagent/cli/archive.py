"""`cmbagent export` and `import`: a run as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmbagent.cli._app import Debug, Target, app
from cmbagent.cli._store import the_run, the_store
from cmbagent.cli._told import Told

_MEGABYTE = 1_000_000


@app.command("export")
def export_(
    run: Target,
    out: Annotated[Path, typer.Argument(help="The file to make, such as run.zip.")],
    max_file_mb: Annotated[float, typer.Option(min=0, help="Leave larger files out.")] = 100,
    debug: Debug = False,
) -> None:
    """Write a run to a file: records, plan, code, data, versions, costs, and a tape of its models' replies.

    Keys are left out. The task, the prompts and the answers are in it.
    """
    from cmbagent.archive import export_run

    with Told(debug):
        store = the_store()
        left_out = export_run(store, the_run(store, run).id, out, max_file_bytes=int(max_file_mb * _MEGABYTE))
        for name, why in left_out.items():
            typer.echo(f"left out: {name} ({why})", err=True)
        typer.echo(f"Wrote {out} ({out.stat().st_size / _MEGABYTE:.1f} MB).")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `cmbagent export` made.")],
    to: Annotated[
        Path | None, typer.Option(help="A new directory for the run's files; else one named after the run.")
    ] = None,
    max_mb: Annotated[float, typer.Option(min=0, help="Refuse what is larger when unpacked.")] = 2000,
    debug: Debug = False,
) -> None:
    """Take in a run that somebody exported. It can be shown and its tape replayed; it is not resumed."""
    from cmbagent.archive import import_run

    with Told(debug):
        info = import_run(the_store(), file, to, max_bytes=int(max_mb * _MEGABYTE))
        typer.echo(
            f"Imported run {info.id}. Its files: {info.work_dir}. To look at it: cmbagent show {info.id}"
        )
