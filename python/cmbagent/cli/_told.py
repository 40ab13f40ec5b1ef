"""From what a verb found, or what went wrong in it, to standard output, standard error and an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from cmbagent.cli._app import UsageError
from cmbagent.cli._status import Exit

if TYPE_CHECKING:
    from cmbagent.workflows import WorkflowExecutor


class Told:
    """Tells what a verb found, and what went wrong in its block, and exits.

    For programs standard output is one JSON document: what was found, or an object with `error` and
    `exit_status`. Texts for people then go to standard error.

    Args:
        debug: let exceptions through with their tracebacks.
        as_json: tell programs.

    Attributes:
        executor: the run that is carried out in the block.
        step: the step of the plan that it has reached, from 1; 0 before.
        about: gives what programs are told of the run whichever way it ends.
    """

    def __init__(self, debug: bool = False, as_json: bool = False) -> None:
        self.as_json = as_json
        self.executor: WorkflowExecutor | None = None
        self.step = 0
        self.about: Callable[[], dict[str, Any]] = dict
        self._debug = debug

    def say(self, found: Any, text: str) -> None:
        """Say what was found: as JSON to programs, in words to people."""
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if self.as_json else text)

    def leave(self, status: Exit, error: str | None = None) -> NoReturn:
        """Exit; programs are told what the run came to."""
        if self.as_json:
            about = self.about()
            reason = {} if error is None else {"error": error}
            self.say({**about, **reason, "exit_status": int(status)}, "")
        raise typer.Exit(int(status))

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: Any) -> None:
        if problem is None or isinstance(problem, (typer.Exit, typer.Abort)):
            return
        if isinstance(problem, SystemExit):
            if self.as_json and problem.code == Exit.REQUEUE:
                self.leave(Exit.REQUEUE)
            return
        if isinstance(problem, KeyboardInterrupt):
            self._interrupted()
        if self._debug or not isinstance(problem, Exception):
            return
        from cmbagent.errors import CmbagentError, JournalError, RunStoppedError

        text = str(problem) or type(problem).__name__
        known = isinstance(problem, (CmbagentError, ValueError, RuntimeError, OSError))
        text = text if known else f"{type(problem).__name__}: {text}"
        if not self._was_shown(problem):
            typer.echo(f"error: {text}", err=True)
        self.say_how_to_go_on()
        statuses = ((UsageError, Exit.USAGE), (JournalError, Exit.STORE), (RunStoppedError, Exit.ENDED))
        self.leave(next((code for kind, code in statuses if isinstance(problem, kind)), Exit.FAILED), text)

    def _interrupted(self) -> NoReturn:
        executor = self.executor
        # A run that is kept has itself said how to go on.
        if executor is None or not executor.durable:
            how = self._how_to_go_on()
            done = "what is finished is in the work directory" if executor else "nothing was changed"
            typer.echo(f"Interrupted. {how}" if how else f"Interrupted; {done}.", err=True)
        self.leave(Exit.INTERRUPTED)

    def _was_shown(self, problem: Exception) -> bool:
        """Whether the run's display ended with this very text, just above on the same terminal."""
        from cmbagent.display import make_display
        from cmbagent.errors import PhaseFailedError, PhaseValidationError

        return (
            self.executor is not None
            and isinstance(problem, (PhaseFailedError, PhaseValidationError))
            and make_display(self.executor.verbose) is not None
            and sys.stdout.isatty()
            and sys.stderr.isatty()
        )

    def say_how_to_go_on(self) -> None:
        """Say on standard error how the run is gone on with, if it can be."""
        how = self._how_to_go_on()
        if how:
            typer.echo(how, err=True)

    def _how_to_go_on(self) -> str | None:
        executor = self.executor
        if executor is None:
            return None
        if executor.durable:
            return f"To go on: cmbagent resume {executor.context.run_id}"
        before = Path(executor.work_dir, "context", f"context_step_{self.step - 1}.pkl")
        if self.step and before.is_file() and any(p.phase_type == "control" for p in executor.phases):
            return f"To go on at step {self.step}: the same command with --restart-at-step {self.step}"
        return None
