"""The command itself, to which each verb adds one command."""

from __future__ import annotations

from typing import Annotated

import typer

FAILED = 1
"""The run, or what was asked for, failed."""
USAGE = 2
"""What was asked for cannot be asked for."""
ENDED = 3
"""The run was stopped or cancelled, or waits: it can be resumed."""
STORE = 4
"""The store of runs cannot be used, or another process runs the run."""
REQUEUE = 75
"""The process was told to end by SIGTERM or SIGUSR1: the run can be resumed."""
INTERRUPTED = 130
"""Ctrl-C."""

app = typer.Typer(
    help="Agent workflows for science: plan, review, write code, run it here, report.",
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 stopped or waiting, 4 the store of runs cannot "
    "be used, 75 interrupted by SIGTERM or SIGUSR1 (resume it), 130 interrupted by Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class UsageError(ValueError):
    """What was asked for cannot be asked for; the message says what can."""


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only the closing line.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Target = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its beginning, or a work directory.")]


def _version(wanted: bool) -> None:
    if wanted:
        import cmbagent

        typer.echo(f"cmbagent {cmbagent.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Agent workflows for science: plan, review, write code, run it here, report."""
