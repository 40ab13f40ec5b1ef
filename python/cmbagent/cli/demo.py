"""`cmbagent demo`: a workflow without keys and network."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from cmbagent.cli._app import AsJson, Debug, Plain, app
from cmbagent.cli._screen import Screen
from cmbagent.cli._status import Exit
from cmbagent.cli._told import Told


@app.command()
def demo(
    work_dir: Annotated[Path, typer.Option(help="Where everything lands.")] = Path("demo_output"),
    plain: Plain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a whole research workflow here, with scripted models: no key, no network."""
    from cmbagent.demo import run_demo

    told = Told(debug, as_json)
    with told:
        aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
        with aside, Screen(plain=plain, as_json=as_json).shown():
            status = run_demo(work_dir)
        told.about = lambda: {"work_dir": str(work_dir.expanduser().resolve())}
        told.leave(Exit.FAILED if status else Exit.DONE)
