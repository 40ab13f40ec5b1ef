"""From what goes wrong to a line on standard error and an exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cmbagent.cli._app import ENDED, FAILED, INTERRUPTED, STORE, USAGE, UsageError

if TYPE_CHECKING:
    from cmbagent.callbacks import StepInfo
    from cmbagent.workflows import WorkflowExecutor

_ENDED = {
    "stopped": "The run was stopped.",
    "paused": "A phase holds the run.",
    "waiting_approval": "The run waits for an answer.",
}


class Told:
    """Tells what went wrong in its block, and exits.

    Args:
        debug: let exceptions through with their tracebacks.
    """

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug
        self._executor: WorkflowExecutor | None = None
        self._step = 0

    def perform(self, executor: WorkflowExecutor, quiet: bool) -> None:
        """Carry out a run to its end; say how to go on should it not come to it.

        Args:
            executor: the run.
            quiet: show the closing line only.

        Raises:
            typer.Exit: the run did not complete.
        """
        from cmbagent.callbacks import WorkflowCallbacks

        self._executor = executor
        executor.callbacks = WorkflowCallbacks(on_step_start=self._reached)
        executor._resume_words = f"cmbagent resume {executor.context.run_id}"
        context = executor.run_sync()
        if executor.outcome in _ENDED:
            typer.echo(_ENDED[executor.outcome], err=True)
            self._say_how_to_go_on()
            raise typer.Exit(ENDED)
        if executor.outcome == "failed":
            if quiet:
                typer.echo("error: the run ended with an error; `cmbagent show` says why", err=True)
            self._say_how_to_go_on()
            raise typer.Exit(FAILED)
        if quiet:
            typer.echo(
                f"Completed in {context.phase_timings.get('total', 0.0):.1f} s. Results: {context.work_dir}"
            )

    def _reached(self, step: StepInfo) -> None:
        self._step = step.step_number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: Any) -> None:
        if problem is None or isinstance(problem, (typer.Exit, typer.Abort, SystemExit)):
            return
        if isinstance(problem, KeyboardInterrupt):
            if self._executor is not None and self._executor.durable:
                # The run itself has said how to go on.
                raise typer.Exit(INTERRUPTED) from None
            how = self._how_to_go_on()
            done = (
                "what is finished is in the work directory"
                if self._executor is not None
                else "nothing was changed"
            )
            typer.echo(f"Interrupted. {how}" if how else f"Interrupted; {done}.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        if self._debug or not isinstance(problem, Exception):
            return
        from cmbagent.errors import CmbagentError, JournalError, RunStoppedError

        text = str(problem) or type(problem).__name__
        known = isinstance(problem, (CmbagentError, ValueError, RuntimeError, OSError))
        if not self._was_shown(problem):
            typer.echo(f"error: {text if known else f'{type(problem).__name__}: {text}'}", err=True)
        self._say_how_to_go_on()
        statuses = ((UsageError, USAGE), (JournalError, STORE), (RunStoppedError, ENDED))
        raise typer.Exit(
            next((code for kind, code in statuses if isinstance(problem, kind)), FAILED)
        ) from None

    def _was_shown(self, problem: Exception) -> bool:
        """Whether the run's display ended with this very text, just above on the same terminal."""
        from cmbagent.display import make_display
        from cmbagent.errors import PhaseFailedError, PhaseValidationError

        return (
            self._executor is not None
            and isinstance(problem, (PhaseFailedError, PhaseValidationError))
            and make_display(self._executor.verbose) is not None
            and sys.stdout.isatty()
            and sys.stderr.isatty()
        )

    def _say_how_to_go_on(self) -> None:
        how = self._how_to_go_on()
        if how:
            typer.echo(how, err=True)

    def _how_to_go_on(self) -> str | None:
        executor = self._executor
        if executor is None:
            return None
        if executor.durable:
            return f"To go on: cmbagent resume {executor.context.run_id}"
        before = Path(executor.work_dir, "context", f"context_step_{self._step - 1}.pkl")
        if self._step and before.is_file() and any(p.phase_type == "control" for p in executor.phases):
            return f"To go on at step {self._step}: the same command with --restart-at-step {self._step}"
        return None
