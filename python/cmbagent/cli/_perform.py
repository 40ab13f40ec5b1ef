"""Carrying out a run to its end, in this terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from cmbagent.cli._screen import Screen
from cmbagent.cli._status import Exit, of_run
from cmbagent.cli._store import warn_of_network

if TYPE_CHECKING:
    from cmbagent.callbacks import StepInfo
    from cmbagent.cli._told import Told
    from cmbagent.workflows import WorkflowExecutor

_ENDED = {
    "stopped": "The run was stopped.",
    "paused": "A phase holds the run.",
    "waiting_approval": "The run waits for an answer.",
}


def manager_of(as_json: bool) -> Any:
    """Return who answers a run's questions; `None` when nobody can.

    Where standard output is for programs, nobody is asked there.
    """
    from cmbagent.approvals import ConsoleApprovalManager, default_manager

    manager = default_manager()
    return None if as_json and isinstance(manager, ConsoleApprovalManager) else manager


def perform(told: Told, executor: WorkflowExecutor, screen: Screen) -> None:
    """Carry out a run to its end; say how to go on should it not come to it.

    Args:
        told: tells how it ended.
        executor: the run.
        screen: how it is shown.

    Raises:
        typer.Exit: the run did not complete, or programs were told how it did.
    """
    from cmbagent.approvals import ConsoleApprovalManager
    from cmbagent.callbacks import WorkflowCallbacks

    def reached(step: StepInfo) -> None:
        told.step = step.step_number

    told.executor, told.about = executor, lambda: result(executor)
    executor.callbacks = WorkflowCallbacks(on_step_start=reached)
    executor._resume_words = f"cmbagent resume {executor.context.run_id}"
    warn_of_network(executor.store)
    with screen.shown() as display:
        if isinstance(executor.approval_manager, ConsoleApprovalManager):
            executor.approval_manager.hold = display.hold
        context = executor.run_sync()
    outcome = executor.outcome or "failed"
    if outcome in _ENDED:
        typer.echo(_ENDED[outcome], err=True)
        told.say_how_to_go_on()
    elif outcome == "failed":
        if screen.quiet:
            typer.echo("error: the run ended with an error; `cmbagent show` says why", err=True)
        told.say_how_to_go_on()
    elif screen.quiet and not told.as_json:
        seconds = context.phase_timings.get("total", 0.0)
        typer.echo(f"Completed in {seconds:.1f} s. Results: {context.work_dir}")
    if outcome != "completed" or told.as_json:
        told.leave(of_run(outcome) if outcome != "failed" else Exit.FAILED)


def result(executor: WorkflowExecutor) -> dict[str, Any]:
    """Describe how a run ended, for programs.

    Returns:
        `id`, `workflow_id`, `status` (`None` when it could not begin), `work_dir` (absolute), `kept` (whether
        it can be shown and resumed), `seconds`, `usage`, `error` and `phases` (dicts of `type`, `status`,
        `error`).
    """
    status, ending = executor.get_status(), executor._log.ending
    phases = [
        {"type": each["phase_type"], "status": each["status"], "error": each["error"]}
        for each in status["phase_results"]
    ]
    return {
        "id": status["run_id"],
        "workflow_id": status["workflow_id"],
        "status": status.get("status"),
        "work_dir": executor.work_dir,
        "kept": executor.durable,
        "seconds": ending.get("seconds"),
        "usage": ending.get("usage") or {},
        "error": ending.get("error"),
        "phases": phases,
    }
