"""`cmbagent doctor`: whether this machine is ready, and what to do where it is not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmbagent.cli._app import AsJson, Debug, app
from cmbagent.cli._status import Exit
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.cli._checks import Check

_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
_INDENT = " " * 6


@app.command()
def doctor(
    work_dir: Annotated[Path, typer.Option(help="Where runs would work.")] = Path("cmbagent_output"),
    online: Annotated[
        bool, typer.Option("--online", help="Ask the providers' own addresses, too, whether they answer.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check keys, addresses of models, sandbox, store, disk and versions, and say what to do.

    Keys are neither shown nor sent. The exit status is 1 when a check fails; warnings do not count.
    """
    from cmbagent.cli._checks import FAIL, checks

    told = Told(debug, as_json)
    with told:
        done = []
        for check in checks(work_dir, online):
            done.append(check)
            if not as_json:
                typer.echo(_lines(check))
        fails = [check.name for check in done if check.status == FAIL]
        status = Exit.FAILED if fails else Exit.DONE
        outcome = f"\nNot ready: {', '.join(fails)}" if fails else "\nReady."
        found = {"checks": [dataclasses.asdict(check) for check in done], "exit_status": int(status)}
        told.say(found, outcome)
        raise typer.Exit(int(status))


def _lines(check: Check) -> str:
    width = max(40, min(110, shutil.get_terminal_size((110, 24)).columns))
    word = check.status.ljust(4)
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        word = typer.style(word, fg=_COLOURS[check.status], bold=True)
    text = textwrap.wrap(f"{check.name}: {check.found}", width - len(_INDENT), break_on_hyphens=False)
    advice = textwrap.wrap(
        check.advice, width, initial_indent=f"{_INDENT}→ ", subsequent_indent=f"{_INDENT}  "
    )
    return "\n".join([f"{word}  {text[0]}", *(_INDENT + line for line in text[1:]), *advice])
