"""The command itself, to which each verb adds one command."""

from __future__ import annotations

from typing import Annotated

import typer

from cmbagent.cli import _complete
from cmbagent.cli._status import epilog

app = typer.Typer(
    help="Agent workflows for science: plan, review, write code, run it here, report.",
    epilog=epilog(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class UsageError(ValueError):
    """What was asked for cannot be asked for; the message says what can."""


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="Line by line, as in a log, in place of the live display.")
]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach", "-d", help="Leave the run to a process of its own, which survives this terminal."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only the closing line.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Target = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's id, its beginning, or a work directory.",
        autocompletion=_complete.runs,
    ),
]


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
