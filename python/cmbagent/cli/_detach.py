"""A run in a process of its own, in a session of its own: the end of this terminal is not its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cmbagent.cli._app import UsageError
from cmbagent.cli._status import Exit
from cmbagent.cli._store import warn_of_network

if TYPE_CHECKING:
    from cmbagent.cli._told import Told
    from cmbagent.store import Store
    from cmbagent.workflows import WorkflowExecutor

LOG = "cmbagent-detached.log"
"""In the work directory: what the process would have shown; later ones write on at its end."""

_LOOK_SECONDS = 0.05
_HITL = "CMBAGENT_HITL"
_NOT_PASSED_ON = ("detach", "as_json", "plain", "yes")


def manager() -> Any:
    """Return who answers a detached run's questions: whoever `CMBAGENT_HITL` names, else other processes."""
    from cmbagent.approvals import QueueApprovalManager, default_manager

    return default_manager() if os.environ.get(_HITL) in ("approve", "reject") else QueueApprovalManager()


def begin(told: Told, context: typer.Context, executor: WorkflowExecutor) -> None:
    """Carry out the command in another process; return once its run is in the store.

    Args:
        told: tells the run's id, or how the process ended before it had begun.
        context: the command, with what it was given.
        executor: the run, checked; it is not run here.

    Raises:
        UsageError: runs are not kept, so nobody could attach to it.
        typer.Exit: the process ended before its run had begun.
    """
    from cmbagent.store import open_store

    store = open_store(None)
    if store is None:
        raise UsageError("--detach needs a store to attach through; CMBAGENT_STORE is :memory:, unset it")
    warn_of_network(store)
    work_dir = Path(executor.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    path, run = work_dir / LOG, executor.context.run_id
    before = store._core.run(run)
    with open(path, "ab", opener=_private) as log:
        start = log.tell()
        process = subprocess.Popen(
            # As the installed command does, it looks for modules elsewhere than here.
            [sys.executable, "-P", "-m", "cmbagent", *arguments(context, run)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, _HITL: hitl()},
        )
    if not _begun(store, run, before, process):
        said = path.read_bytes()[start:].decode(errors="replace").rstrip()
        typer.echo(said, err=True)
        told.leave(_status(process.returncode), said.rpartition("error: ")[2])
    found = {"id": run, "pid": process.pid, "work_dir": str(work_dir), "log": str(path)}
    told.say(
        found,
        f"Run {run} goes on in process {process.pid}.\n"
        f"To watch it and answer its questions: cmbagent attach {run}\n"
        f"What it shows is written to {path}.",
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def hitl() -> str:
    """Return `CMBAGENT_HITL` for a process without a terminal: it cannot ask there."""
    word = os.environ.get(_HITL, "").strip().lower()
    return word if word and word != "ask" else "queue"


def arguments(context: typer.Context, run: str) -> list[str]:
    """Return the words of the command as it was given, for another process that carries it out plainly.

    Args:
        context: the command, `run` or `resume`.
        run: the id that its run has, or shall have.
    """
    name = str(context.info_name)
    given = {**context.params, "run" if name == "resume" else "run_id": run}
    options: list[str] = []
    positional: list[str] = []
    for parameter in context.command.params:
        value = given.get(parameter.name or "")
        if parameter.name in _NOT_PASSED_ON or value is None or value is False:
            continue
        if parameter.param_type_name == "argument":
            positional.append(str(value))
            continue
        for each in value if isinstance(value, (list, tuple)) else [value]:
            options += [parameter.opts[0]] if each is True else [parameter.opts[0], str(each)]
    return [name, *options, "--", *positional]


def _begun(store: Store, run: str, before: dict[str, Any] | None, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a process has begun its run, or has ended without."""
    while True:
        ended = process.poll() is not None
        now = store._core.run(run)
        if now is not None and (before is None or now["updated"] > before["updated"]):
            return True
        if ended:
            return False
        time.sleep(_LOOK_SECONDS)


def _status(code: int) -> Exit:
    return next((each for each in Exit if each == code != Exit.DONE), Exit.FAILED)
