"""`cmbagent export` and `import`: a run as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmbagent.cli._app import AsJson, Debug, Target, UsageError, app
from cmbagent.cli._store import as_dict, the_run, the_store
from cmbagent.cli._told import Told

_MEGABYTE = 1_000_000


@app.command("export")
def export_(
    run: Target,
    out: Annotated[Path, typer.Argument(help="The file to make, such as run.zip.")],
    max_file_mb: Annotated[float, typer.Option(min=0, help="Leave larger files out.")] = 100,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a run to a file: records, plan, code, data, versions, costs, and a tape of its models' replies.

    Keys are left out. The task, the prompts and the answers are in it.
    """
    from cmbagent.archive import export_run

    told = Told(debug, as_json)
    with told:
        store = the_store()
        info = the_run(store, run)
        left_out = export_run(store, info.id, out, max_file_bytes=int(max_file_mb * _MEGABYTE))
        for name, why in left_out.items():
            typer.echo(f"left out: {name} ({why})", err=True)
        size = out.stat().st_size
        found = {"run": info.id, "file": str(out.absolute()), "bytes": size, "left_out": left_out}
        told.say(found, f"Wrote {out} ({size / _MEGABYTE:.1f} MB).")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `cmbagent export` made.")],
    to: Annotated[
        Path | None, typer.Option(help="A new directory for the run's files; else one named after the run.")
    ] = None,
    max_mb: Annotated[float, typer.Option(min=0, help="Refuse what is larger when unpacked.")] = 2000,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Take in a run that somebody exported. It can be shown and its tape replayed; it is not resumed."""
    from cmbagent.archive import import_run

    told = Told(debug, as_json)
    with told:
        if not file.expanduser().is_file():
            raise UsageError(f"There is no file {file}; name what `cmbagent export` made.")
        info = import_run(the_store(), file, to, max_bytes=int(max_mb * _MEGABYTE))
        told.say(
            as_dict(info),
            f"Imported run {info.id}. Its files: {info.work_dir}. To look at it: cmbagent show {info.id}",
        )
