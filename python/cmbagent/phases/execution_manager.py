"""Help for phases of the user's: callbacks, times, steps, cancelling and checkpoints in one object."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from cmbagent import _current, _loop
from cmbagent.callbacks import StepInfo, StepStatus, WorkflowCallbacks, adapt_callbacks
from cmbagent.errors import ConfigurationError, RunStoppedError
from cmbagent.phases.base import Phase, PhaseContext, PhaseResult, PhaseStatus

logger = logging.getLogger("cmbagent.phase")

AUTO_CHECKPOINT = "auto"
"""The id under which checkpoints are written by themselves."""

T = TypeVar("T")


class PhaseEventType(Enum):
    """What an entry of `PhaseExecutionManager.events` tells."""

    PHASE_START = "phase_start"
    PHASE_COMPLETE = "phase_complete"
    PHASE_FAILED = "phase_failed"
    STEP_START = "step_start"
    STEP_COMPLETE = "step_complete"
    STEP_FAILED = "step_failed"
    PLAN_GENERATED = "plan_generated"
    AGENT_MESSAGE = "agent_message"
    CODE_EXECUTION = "code_execution"
    TOOL_CALL = "tool_call"
    FILE_CREATED = "file_created"
    CHECKPOINT = "checkpoint"
    CUSTOM = "custom"


class WorkflowCancelledException(RunStoppedError):
    """The caller's callbacks said that the run shall not go on."""


@dataclass
class PhaseExecutionConfig:
    """Settings of a `PhaseExecutionManager`.

    Attributes:
        enable_callbacks: tell the caller's callbacks.
        enable_pause_check: let the callbacks hold and end the phase.
        auto_checkpoint: write a checkpoint of output and shared state by itself, at the end of a step or when
            it is asked whether to go on.
        checkpoint_interval: least time between two of these, in seconds.
    """

    enable_callbacks: bool = True
    enable_pause_check: bool = True
    auto_checkpoint: bool = False
    checkpoint_interval: float = 300


class PhaseExecutionManager:
    """Accompanies a phase from its start to its result.

    Used as a context manager, or with `start`; the phase then returns what `complete` or `fail` returns:

        async def execute(self, context):
            with PhaseExecutionManager(context, self) as manager:
                manager.raise_if_cancelled()
                return manager.complete({"answer": 42})

    Within a workflow the run itself tells the callbacks of the phase's start and failure; here that happens
    only for a phase executed on its own, so nothing is told twice.

    Args:
        context: the context the phase was given.
        phase: the phase.
        config: settings; `None` takes the defaults.

    Attributes:
        start_time: unix seconds, `None` before the start.
        end_time: unix seconds, `None` before the end.
        current_step: the step that runs, 1-based; `None` outside of steps.
        events: what happened, each with `type` (a value of `PhaseEventType`), `timestamp` (unix seconds),
            `phase_id`, `phase_type`, `step` and the event's own fields.
        is_cancelled: whether the callbacks have said that the run shall not go on.
    """

    def __init__(
        self, context: PhaseContext, phase: Phase, config: PhaseExecutionConfig | None = None
    ) -> None:
        self.context = context
        self.phase = phase
        self.config = config or PhaseExecutionConfig()
        self.start_time: float | None = None
        self.end_time: float | None = None
        self.current_step: int | None = None
        self.events: list[dict[str, Any]] = []
        self.is_cancelled = False
        self._callbacks = adapt_callbacks(context.callbacks)
        self._in_run = _current.get() is not None
        self._poster = _loop.current_poster.get()
        self._step_started: dict[int, tuple[float, str]] = {}
        self._saved_at = time.monotonic()

    def __enter__(self) -> PhaseExecutionManager:
        """Start the phase."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note an exception as the phase's failure, and let it go on."""
        if error is not None and self.end_time is None:
            self.fail(_text(error), "".join(traceback.format_exception(error)))

    # The phase

    def start(self) -> None:
        """Note the start."""
        self.start_time = self.context.started_at = time.time()
        if not self._in_run:
            self._tell(lambda c: c.invoke_phase_change(self.phase.phase_type, self.current_step))
        self._log(PhaseEventType.PHASE_START, {})
        logger.info("phase %s started", self.phase.phase_type)

    def complete(
        self, output_data: dict[str, Any] | None = None, chat_history: list[dict[str, Any]] | None = None
    ) -> PhaseResult:
        """Note the end and return the result of a phase that did its work.

        Args:
            output_data: becomes the context's `output_data`; nothing, or an empty dict, leaves that as it is.
            chat_history: the messages exchanged.
        """
        timing = self._end()
        if output_data:
            self.context.output_data = output_data
        self._log(PhaseEventType.PHASE_COMPLETE, {"execution_time": timing["total"]})
        logger.info("phase %s completed in %.2f s", self.phase.phase_type, timing["total"])
        return PhaseResult(
            PhaseStatus.COMPLETED, self.context, chat_history=list(chat_history or []), timing=timing
        )

    def fail(self, error: str, traceback_str: str | None = None) -> PhaseResult:
        """Note the end and return the result of a phase that failed.

        Args:
            error: why.
            traceback_str: where in the program, for `events`.
        """
        timing = self._end()
        self._log(PhaseEventType.PHASE_FAILED, {"error": error, "traceback": traceback_str})
        if not self._in_run:
            self._tell(lambda c: c.invoke_workflow_failed(error, self.current_step))
        # The reason may hold the user's text; it is in the result and in `events`.
        logger.error("phase %s failed after %.2f s", self.phase.phase_type, timing["total"])
        return PhaseResult(PhaseStatus.FAILED, self.context, error=error, timing=timing)

    def _end(self) -> dict[str, float]:
        self.end_time = self.context.completed_at = time.time()
        start = self.end_time if self.start_time is None else self.start_time
        return {"start": start, "end": self.end_time, "total": self.end_time - start}

    # Its steps

    def start_step(self, step_number: int, description: str = "") -> None:
        """Note that a step starts.

        Args:
            step_number: 1-based.
            description: what it is to do.
        """
        now = time.time()
        self.current_step = step_number
        self._step_started[step_number] = (now, description)
        step = StepInfo(step_number, description, description, StepStatus.RUNNING, started_at=now)
        self._tell(lambda c: c.invoke_phase_change(self.phase.phase_type, step_number))
        self._tell(lambda c: c.invoke_step_start(step))
        self._log(PhaseEventType.STEP_START, {"step_number": step_number, "description": description})

    def complete_step(self, step_number: int, summary: str | None = None, result: Any = None) -> None:
        """Note that a step is done.

        Args:
            step_number: 1-based.
            summary: what it found, as text.
            result: what it made.
        """
        step = self._step(step_number, StepStatus.COMPLETED)
        step.summary, step.result = summary, result
        self._tell(lambda c: c.invoke_step_complete(step))
        self._log(PhaseEventType.STEP_COMPLETE, {"step_number": step_number, "summary": summary})
        self._save_when_due()

    def fail_step(self, step_number: int, error: str) -> None:
        """Note that a step failed.

        Args:
            step_number: 1-based.
            error: why.
        """
        step = self._step(step_number, StepStatus.FAILED)
        step.error = error
        self._tell(lambda c: c.invoke_step_failed(step))
        self._log(PhaseEventType.STEP_FAILED, {"step_number": step_number, "error": error})

    def _step(self, number: int, status: StepStatus) -> StepInfo:
        now = time.time()
        started, description = self._step_started.get(number, (None, ""))
        goal = description or f"Step {number}"
        seconds = None if started is None else now - started
        return StepInfo(number, goal, goal, status, started, completed_at=now, execution_time=seconds)

    # What happens in it

    def log_event(self, event_type: str | PhaseEventType, data: dict[str, Any] | None = None) -> None:
        """Note an event of the phase's own.

        Args:
            event_type: its name, kept as `custom_type`; or one of the known types.
            data: its fields.
        """
        if isinstance(event_type, PhaseEventType):
            self._log(event_type, dict(data or {}))
        else:
            self._log(PhaseEventType.CUSTOM, {"custom_type": event_type, **(data or {})})

    def log_agent_message(
        self, agent: str, role: str, content: str, metadata: dict[str, Any] | None = None
    ) -> None:
        """Note a message of a conversation and tell the callbacks.

        Args:
            agent: who speaks.
            role: its role, such as `assistant`.
            content: what it says.
            metadata: what else is to be known of it.
        """
        self._tell(lambda c: c.invoke_agent_message(agent, role, content, metadata or {}))
        self._log(
            PhaseEventType.AGENT_MESSAGE,
            {"agent": agent, "role": role, "content": content, "metadata": metadata},
        )

    def log_code_execution(self, agent: str, code: str, language: str, result: str | None = None) -> None:
        """Note code that was run and tell the callbacks.

        Args:
            agent: who wrote it.
            code: the code.
            language: such as `python`.
            result: its output.
        """
        self._tell(lambda c: c.invoke_code_execution(agent, code, language, result))
        self._log(
            PhaseEventType.CODE_EXECUTION,
            {"agent": agent, "language": language, "code": code, "result": result},
        )

    def log_tool_call(self, agent: str, tool_name: str, arguments: Any, result: Any = None) -> None:
        """Note a tool call and tell the callbacks.

        Args:
            agent: who called.
            tool_name: what.
            arguments: with what.
            result: what came of it.
        """
        self._tell(lambda c: c.invoke_tool_call(agent, tool_name, arguments, result))
        self._log(
            PhaseEventType.TOOL_CALL,
            {"agent": agent, "tool_name": tool_name, "arguments": arguments, "result": result},
        )

    def _log(self, kind: PhaseEventType, data: dict[str, Any]) -> None:
        about = {"phase_id": self.context.phase_id, "phase_type": self.phase.phase_type}
        # The event's own fields come first, so that they cannot hide what it is.
        event = {**data, "type": kind.value, "timestamp": time.time(), **about, "step": self.current_step}
        self.events.append(event)

    # Whether it goes on

    def check_should_continue(self) -> bool:
        """Ask whether to go on: not after `cancel()`, nor when the callbacks say so; waits while they hold.

        A `stop()` lets the phase go on to its end.
        """
        self._save_when_due()
        run = _current.get()
        if run is not None and run.cancelled:
            self.is_cancelled = True
            return False
        if not self.config.enable_pause_check:
            return True
        self._in_callers_thread(self._callbacks.invoke_pause_check, None)
        if not self._in_callers_thread(self._callbacks.check_should_continue, False):
            self.is_cancelled = True
        return not self.is_cancelled

    def raise_if_cancelled(self) -> None:
        """Go on, or not.

        Raises:
            WorkflowCancelledException: the run was cancelled, or the callbacks say that it shall not go on.
        """
        if self.is_cancelled or not self.check_should_continue():
            raise WorkflowCancelledException("Workflow cancelled by user")

    # Checkpoints

    def save_checkpoint(self, checkpoint_id: str, data: Any) -> str:
        """Write data that a later run may load.

        Plain values are kept (numbers, text, containers, dates, paths); others are replaced by a note of
        their type, and API keys are left out.

        Args:
            checkpoint_id: a name for a file: no separators.
            data: what to keep.

        Returns:
            The file's path: `{work_dir}/checkpoints/{phase_type}_{checkpoint_id}.pkl`.

        Raises:
            ConfigurationError: the id is no name for a file.
            OSError: the file could not be written.
        """
        from cmbagent.workflows.restore import plain

        path = self._checkpoint(checkpoint_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            "phase_type": self.phase.phase_type,
            "phase_id": self.context.phase_id,
            "timestamp": time.time(),
            "step": self.current_step,
            "data": plain(data),
        }
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        draft.write_bytes(pickle.dumps(kept, protocol=4))
        draft.replace(path)
        self._log(PhaseEventType.CHECKPOINT, {"checkpoint_id": checkpoint_id, "path": str(path)})
        return str(path)

    def load_checkpoint(self, checkpoint_id: str) -> dict[str, Any] | None:
        """Read what `save_checkpoint` wrote, as data: nothing in the file is executed.

        Args:
            checkpoint_id: its id.

        Returns:
            `phase_type`, `phase_id`, `timestamp` (unix seconds), `step` and `data`; `None` when there is no
            such checkpoint.

        Raises:
            ConfigurationError: the id is no name for a file, or the file is damaged or no checkpoint.
        """
        from cmbagent.workflows.restore import load_pickle

        path = self._checkpoint(checkpoint_id)
        with contextlib.suppress(FileNotFoundError):
            kept = load_pickle(path)
            if not isinstance(kept, dict) or "data" not in kept:
                raise ConfigurationError(
                    f"{path} is no checkpoint; expected a file made by save_checkpoint. Delete it to go on"
                )
            return kept
        return None

    def _checkpoint(self, checkpoint_id: str) -> Path:
        name = f"{self.phase.phase_type}_{checkpoint_id}.pkl"
        if not str(checkpoint_id) or Path(name).name != name or "\\" in name or "\0" in name:
            raise ConfigurationError(
                f"the id of a checkpoint is part of a file's name and may not be {checkpoint_id!r}"
            )
        return Path(self.context.work_dir) / "checkpoints" / name

    def _save_when_due(self) -> None:
        now = time.monotonic()
        if not self.config.auto_checkpoint or now - self._saved_at < self.config.checkpoint_interval:
            return
        self._saved_at = now
        shared = {k: v for k, v in self.context.shared_state.items() if not str(k).startswith("_")}
        try:
            self.save_checkpoint(
                AUTO_CHECKPOINT, {"output_data": self.context.output_data, "shared_state": shared}
            )
        except (OSError, ConfigurationError) as error:
            # Nobody asked for this very checkpoint, and the phase's work is worth more than it.
            logger.warning("phase %s: no checkpoint was written: %s", self.phase.phase_type, error)

    # Helpers

    def get_managed_cmbagent_kwargs(self) -> dict[str, Any]:
        """Return the keywords with which older programs make a `CMBAgent` for a phase."""
        shared = self.context.shared_state or {}
        return {
            "managed_mode": True,
            "parent_session_id": shared.get("_session_id"),
            "parent_db_session": shared.get("_db_session"),
        }

    def _tell(self, call: Callable[[WorkflowCallbacks], None]) -> None:
        if not self.config.enable_callbacks:
            return
        if self._poster is None:
            call(self._callbacks)
        else:
            self._poster.send(lambda: call(self._callbacks))

    def _in_callers_thread(self, call: Callable[[], T], default: T) -> T:
        return call() if self._poster is None else self._poster.ask(call, default)


Execute = Callable[[Any, PhaseContext], Awaitable[PhaseResult]]


def managed_phase_execution(execute: Execute) -> Execute:
    """Decorate a phase's `execute` so that it has a manager and never raises.

    The manager is `self._manager`. An exception becomes a FAILED result whose `error` is its text; the
    manager's `events` hold where it came from. Being cancelled is no failure and goes on.
    """

    @functools.wraps(execute)
    async def managed(self: Any, context: PhaseContext) -> PhaseResult:
        manager = self._manager = PhaseExecutionManager(context, self)
        manager.start()
        try:
            return await execute(self, context)
        except Exception as error:
            return manager.fail(_text(error), traceback.format_exc())

    return managed


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
