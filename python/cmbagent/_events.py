"""From the engine's events to callbacks, display and log.

`docs/events.md` lists the events. The engine tells one `Listener` a run; the listener keeps the order in
which programs written for earlier versions expect their callbacks.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from cmbagent import _loop
from cmbagent._stream import EventLog
from cmbagent.callbacks import PlanInfo, StepInfo, StepStatus, adapt_callbacks

# Silent unless the host program configures logging.
logging.getLogger("cmbagent").addHandler(logging.NullHandler())
logger = logging.getLogger("cmbagent.run")

_PLANNING_SETTINGS = ("planner_model", "plan_reviewer_model", "max_plan_steps", "n_plan_reviews")


class Sink(Protocol):
    """Something that is shown every event."""

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take one event."""


class Listener:
    """What the engine tells a run's events to, and asks whether to go on.

    In a run on a helper thread every call is handed to the thread that waits for the run.

    Args:
        callbacks: the caller's callbacks, in any form `adapt_callbacks` takes.
        sinks: shown each event before the callbacks hear of it.
        final_context: gives the run's final context once it has completed.
        settings: gives the config of a phase by its index, for events that do not bring it.
        log: records every event as soon as it is told, whoever waits for the run.
    """

    def __init__(
        self,
        callbacks: Any = None,
        sinks: Iterable[Sink] = (),
        final_context: Callable[[], Any] = dict,
        settings: Callable[[int], Mapping[str, Any]] | None = None,
        log: EventLog | None = None,
    ) -> None:
        self._callbacks = adapt_callbacks(callbacks)
        self._sinks = list(sinks)
        self._final_context = final_context
        self._settings = settings
        self._log = log
        self._poster = _loop.current_poster.get()
        self._task = ""
        self._failed_step: int | None = None
        self._started: dict[int, float] = {}
        self._in_step = False
        # A step's costs are told after its end.
        self._costs: list[dict[str, Any]] = []

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take one event; never raises for what a sink or a callback does."""
        if self._log is not None:
            self._log.record(kind, data)
        if self._poster is None:
            self._deliver(kind, data)
        else:
            self._poster.send(lambda: self._deliver(kind, data))

    def should_continue(self) -> bool:
        """Ask the caller whether the run goes on."""
        if self._poster is None:
            return self._callbacks.check_should_continue()
        return self._poster.ask(self._callbacks.check_should_continue, default=False)

    def pause(self) -> None:
        """Let the caller hold the run; returns when it may go on."""
        if self._poster is None:
            self._callbacks.invoke_pause_check()
        else:
            self._poster.ask(self._callbacks.invoke_pause_check, default=None)

    def _deliver(self, kind: str, data: dict[str, Any]) -> None:
        for sink in list(self._sinks):
            try:
                sink.event(kind, data)
            except Exception as error:
                self._sinks.remove(sink)
                logger.warning(
                    "%s is left out after %s", type(sink).__name__, type(error).__name__, exc_info=error
                )
        handler = getattr(self, f"_on_{kind}", None)
        if handler is None:
            return
        try:
            handler(data)
        except Exception as error:
            # Reporting must not end a run that is being paid for.
            logger.error("event %s could not be passed on", kind, exc_info=error)

    def _on_run_started(self, data: dict[str, Any]) -> None:
        self._task = data["task"]
        config = {k: data.get(k) for k in ("work_dir", "workflow_id", "workflow_name", "phases", "run_id")}
        self._callbacks.invoke_workflow_start(self._task, config)

    def _on_run_resumed(self, data: dict[str, Any]) -> None:
        self._task = data["task"]
        self._callbacks.invoke_progress("Resumed", data)

    def _on_phase_restored(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress(f"Taken up: {data['display_name']}", data)

    def _on_effect_repeated(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress(f"Again, for it was cut short: {data['effect']}", data)

    def _on_run_finished(self, data: dict[str, Any]) -> None:
        self._leave_step()
        status = data["status"]
        if status == "completed":
            self._callbacks.invoke_workflow_complete(self._final_context(), data["seconds"])
        elif status in ("failed", "cancelled", "interrupted"):
            error = data.get("error") or f"Workflow {status}"
            self._callbacks.invoke_workflow_failed(error, self._failed_step or data.get("step") or None)
        else:
            self._callbacks.invoke_progress(f"Workflow {status.replace('_', ' ')}", data)

    def _on_phase_started(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_phase_change(data["phase"], data["phase_index"])
        self._callbacks.invoke_phase_change(data["phase"], None)
        if data["phase"] == "planning":
            config = data.get("config")
            if config is None:
                config = self._settings(data["phase_index"]) if self._settings else {}
            self._callbacks.invoke_planning_start(self._task, {k: config.get(k) for k in _PLANNING_SETTINGS})

    def _on_plan_ready(self, data: dict[str, Any]) -> None:
        steps = data["steps"]
        self._callbacks.invoke_planning_complete(
            PlanInfo(self._task, len(steps), steps, data["plan_text"], data["seconds"])
        )

    def _on_step_started(self, data: dict[str, Any]) -> None:
        number = data["number"]
        self._in_step = True
        self._started[number] = data["at"]
        self._callbacks.invoke_phase_change(data["phase"], number)
        self._callbacks.invoke_step_start(
            StepInfo(
                number, data["sub_task"], data["instructions"], StepStatus.RUNNING, started_at=data["at"]
            )
        )

    def _on_step_finished(self, data: dict[str, Any]) -> None:
        number, status = data["number"], StepStatus(data["status"])
        step = StepInfo(
            number,
            data.get("sub_task") or "",
            data.get("summary") or "",
            status,
            started_at=self._started.get(number),
            completed_at=data["at"],
            execution_time=data["seconds"],
            error=data.get("error"),
            result={"files": data.get("files") or []},
            summary=data.get("summary"),
        )
        if status is StepStatus.FAILED:
            self._failed_step = number
            self._callbacks.invoke_step_failed(step)
        else:
            self._callbacks.invoke_step_complete(step)
        self._leave_step()

    def _on_call_started(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_agent_start(data["agent"], data["step"] or None)

    def _on_call_finished(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_agent_complete(data["agent"], data["step"] or None, data)

    def _on_message(self, data: dict[str, Any]) -> None:
        metadata = {k: data.get(k) for k in ("run_id", "phase", "phase_index", "step", "seq", "at")}
        self._callbacks.invoke_agent_message(data["name"], data["role"], data["content"], metadata)
        for call in data.get("tool_calls") or []:
            function = call.get("function") or {}
            self._callbacks.invoke_tool_call(
                data["name"], function.get("name", ""), _arguments(function.get("arguments"))
            )

    def _on_script_started(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress(f"Running {data['file']}", _without(data, "code"))

    def _on_script_finished(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_code_execution(data["agent"], data["code"], "python", data.get("output"))

    def _on_cost(self, data: dict[str, Any]) -> None:
        cost = ("cost_json_path", "total_cost", "total_tokens", "records", "unpriced_models")
        self._costs.append({k: data.get(k) for k in cost})
        if not self._in_step:
            self._leave_step()

    def _leave_step(self) -> None:
        self._in_step = False
        while self._costs:
            self._callbacks.invoke_cost_update(self._costs.pop(0))

    def _on_file_written(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress(f"Wrote {data['path']}", data)

    def _on_approval_requested(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress("Waiting for approval", data)

    def _on_approval_received(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress(f"Approval: {data['resolution']}", data)

    def _on_run_paused(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress("Paused", data)

    def _on_run_continued(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress("Continued", data)

    def _on_warning(self, data: dict[str, Any]) -> None:
        self._callbacks.invoke_progress(data["message"], data)


class LogSink:
    """Writes one line per event to the logger `cmbagent.run`; no prompt, answer, code or task."""

    # The fields that say what happened; everything else may hold the user's or a model's text.
    _FIELDS = (
        "run_id", "workflow_id", "work_dir", "phase", "step", "agent", "status", "model", "file", "exit",
        "path", "seconds", "attempt", "tries", "wait_seconds", "number", "total", "tokens", "cost",
        "total_cost", "total_tokens", "resolution",
    )  # fmt: skip
    _LEVELS = {"warning": logging.WARNING, "call_retry": logging.WARNING}  # noqa: RUF012
    _QUIET = frozenset({"message", "call_text", "script_output"})

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Log one event; those that stream are left out."""
        level = self._LEVELS.get(kind, logging.INFO)
        if kind in self._QUIET or not logger.isEnabledFor(level):
            return
        usage = data.get("usage") or {}
        fields = {**data, "tokens": usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)}
        if usage.get("cost"):
            fields["cost"] = usage["cost"]
        shown = ((name, fields.get(name)) for name in self._FIELDS)
        words = [f"{name}={_rounded(value)}" for name, value in shown if value not in (None, "", 0)]
        if kind == "warning":
            words.append(str(data.get("message", "")))
        logger.log(level, "%s %s", kind, " ".join(words))


def make_listener(
    callbacks: Any = None,
    verbose: bool | None = None,
    final_context: Callable[[], Any] = dict,
    settings: Callable[[int], Mapping[str, Any]] | None = None,
    log: EventLog | None = None,
) -> Listener:
    """Make the listener of a run, with log and display.

    Args:
        callbacks: the caller's callbacks.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        final_context: gives the run's final context once it has completed.
        settings: gives the config of a phase by its index, for events that do not bring it.
        log: records every event.
    """
    display = importlib.import_module("cmbagent.display").make_display(verbose)
    sinks: list[Sink] = [LogSink()]
    if display is not None:
        sinks.append(display)
    return Listener(callbacks, sinks, final_context, settings, log)


def _arguments(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _without(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k not in names}
