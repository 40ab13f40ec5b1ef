"""The command line: one verb a module."""

from __future__ import annotations

import warnings

# Each module adds its verbs to the command.
from cmbagent.cli import (  # noqa: F401
    answer,
    archive,
    attach,
    demo,
    doctor,
    phases,
    prune,
    resume,
    run,
    runs,
    serve,
    show,
    steer,
    workflows,
)
from cmbagent.cli._app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit.

    The exit status is 0 when done, 1 when it failed, 2 for wrong usage, 3 when the run was stopped or waits,
    4 when the store of runs cannot be used, 75 after SIGTERM or SIGUSR1, 130 after Ctrl-C.
    """
    # The line of source that warned is of no use to whoever typed a command.
    warnings.formatwarning = lambda message, *_rest, **_more: f"warning: {message}\n"
    app()
