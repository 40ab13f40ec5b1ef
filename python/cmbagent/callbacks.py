"""Callbacks: what a caller may hear from a run, and two things it may decide.

A hook that raises never harms the run; one that fails five times in a row is not called again.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 5
"""So often a hook may fail in a row before it is left alone."""


class StepStatus(Enum):
    """Where a step of the plan stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class WorkflowPhase(Enum):
    """The stages of a workflow, for displays."""

    INITIALIZING = "initializing"
    PLANNING = "planning"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"


@dataclass
class PlanInfo:
    """A finished plan.

    Attributes:
        task: the user's task.
        num_steps: how many steps the plan has.
        steps: the steps, each with `sub_task`, `sub_task_agent` and `bullet_points`.
        plan_text: the plan as text.
        planning_time: seconds.
    """

    task: str
    num_steps: int
    steps: list[dict[str, Any]]
    plan_text: str
    planning_time: float


@dataclass
class StepInfo:
    """A step of the plan.

    Attributes:
        step_number: 1-based.
        goal: the sub-task.
        description: its instructions.
        status: where it stands.
        started_at: unix seconds.
        completed_at: unix seconds.
        execution_time: seconds.
        error: why it failed.
        result: what it made.
        summary: what it found, as text.
    """

    step_number: int
    goal: str
    description: str
    status: StepStatus = StepStatus.PENDING
    started_at: float | None = None
    completed_at: float | None = None
    execution_time: float | None = None
    error: str | None = None
    result: Any = None
    summary: str | None = None


Hook = Callable[..., Any]


@dataclass
class WorkflowCallbacks:
    """The hooks of a caller; all of them optional. They are plain functions, called in the caller's thread.

    Attributes:
        on_planning_start: (task, config dict).
        on_planning_complete: (PlanInfo).
        on_step_start: (StepInfo).
        on_step_complete: (StepInfo).
        on_step_failed: (StepInfo).
        on_workflow_start: (task, config dict).
        on_workflow_complete: (final_context, seconds).
        on_workflow_failed: (error text, step number or None).
        on_progress: (message, data dict).
        on_agent_start: (agent, step number).
        on_agent_complete: (agent, step number, data dict).
        should_continue: () → bool; `False` ends the run. A value that cannot be called counts by its truth.
        on_pause_check: (); the run waits until it returns.
        on_cost_update: (dict with cost_json_path, total_cost in dollars, total_tokens, records).
        on_agent_message: (agent, role, content, metadata dict).
        on_code_execution: (agent, code, language, output or None).
        on_tool_call: (agent, tool name, arguments, result).
        on_phase_change: (phase, step number or None).
    """

    on_planning_start: Hook | None = None
    on_planning_complete: Hook | None = None
    on_step_start: Hook | None = None
    on_step_complete: Hook | None = None
    on_step_failed: Hook | None = None
    on_workflow_start: Hook | None = None
    on_workflow_complete: Hook | None = None
    on_workflow_failed: Hook | None = None
    on_progress: Hook | None = None
    on_agent_start: Hook | None = None
    on_agent_complete: Hook | None = None
    should_continue: Any = None
    on_pause_check: Hook | None = None
    on_cost_update: Hook | None = None
    on_agent_message: Hook | None = None
    on_code_execution: Hook | None = None
    on_tool_call: Hook | None = None
    on_phase_change: Hook | None = None
    _failures: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def invoke_planning_start(self, task: str, config: dict[str, Any]) -> None:
        """Say that planning starts."""
        self._invoke("on_planning_start", task, config)

    def invoke_planning_complete(self, plan_info: PlanInfo) -> None:
        """Hand over the finished plan."""
        self._invoke("on_planning_complete", plan_info)

    def invoke_step_start(self, step_info: StepInfo) -> None:
        """Say that a step starts."""
        self._invoke("on_step_start", step_info)

    def invoke_step_complete(self, step_info: StepInfo) -> None:
        """Say that a step is done."""
        self._invoke("on_step_complete", step_info)

    def invoke_step_failed(self, step_info: StepInfo) -> None:
        """Say that a step failed."""
        self._invoke("on_step_failed", step_info)

    def invoke_workflow_start(self, task: str, config: dict[str, Any]) -> None:
        """Say that the run starts."""
        self._invoke("on_workflow_start", task, config)

    def invoke_workflow_complete(self, final_context: Any, total_time: float) -> None:
        """Say that the run is done; the time is in seconds."""
        self._invoke("on_workflow_complete", final_context, total_time)

    def invoke_workflow_failed(self, error: str, step_number: int | None = None) -> None:
        """Say that the run failed, and in which step."""
        self._invoke("on_workflow_failed", error, step_number)

    def invoke_progress(self, message: str, data: dict[str, Any] | None = None) -> None:
        """Pass on a piece of news."""
        self._invoke("on_progress", message, {} if data is None else data)

    def invoke_agent_start(self, agent: str, step: int | None = None) -> None:
        """Say that an agent is asked."""
        self._invoke("on_agent_start", agent, step)

    def invoke_agent_complete(self, agent: str, step: int | None = None, data: Any = None) -> None:
        """Say that an agent has answered."""
        self._invoke("on_agent_complete", agent, step, data)

    def invoke_pause_check(self) -> None:
        """Let the caller hold the run."""
        self._invoke("on_pause_check")

    def invoke_cost_update(self, cost_data: dict[str, Any]) -> None:
        """Pass on what was spent so far."""
        self._invoke("on_cost_update", cost_data)

    def invoke_agent_message(
        self, agent: str, role: str, content: str, metadata: dict[str, Any] | None = None
    ) -> None:
        """Pass on a message of the conversation."""
        self._invoke("on_agent_message", agent, role, content, {} if metadata is None else metadata)

    def invoke_code_execution(self, agent: str, code: str, language: str, result: str | None = None) -> None:
        """Pass on code that was run, with its output."""
        self._invoke("on_code_execution", agent, code, language, result)

    def invoke_tool_call(self, agent: str, tool_name: str, arguments: Any, result: Any = None) -> None:
        """Pass on a tool call of the conversation."""
        self._invoke("on_tool_call", agent, tool_name, arguments, result)

    def invoke_phase_change(self, phase: str, step_number: int | None = None) -> None:
        """Say that the run enters a phase or a step of it."""
        self._invoke("on_phase_change", phase, step_number)

    def check_should_continue(self) -> bool:
        """Ask whether the run goes on; yes, if the hook is missing or raises."""
        if self.should_continue is None:
            return True
        if not callable(self.should_continue):
            return bool(self.should_continue)
        return bool(self._invoke("should_continue", default=True))

    def _invoke(self, name: str, *arguments: Any, default: Any = None) -> Any:
        hook = getattr(self, name)
        if hook is None or self._failures.get(name, 0) >= MAX_CONSECUTIVE_FAILURES:
            return default
        try:
            answer = hook(*arguments)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError(
                    "the hook is a coroutine function, which nobody would await; use a plain function"
                )
        except Exception as error:
            self._note_failure(name, error)
            return default
        self._failures.pop(name, None)
        return answer

    def _note_failure(self, name: str, error: Exception) -> None:
        count = self._failures[name] = self._failures.get(name, 0) + 1
        logger.warning("callback %s raised %s", name, type(error).__name__, exc_info=error)
        if count == MAX_CONSECUTIVE_FAILURES:
            logger.warning("callback %s failed %d times in a row and is not called again", name, count)


_HOOKS = tuple(f.name for f in fields(WorkflowCallbacks) if f.init)


def adapt_callbacks(callbacks: Any) -> WorkflowCallbacks:
    """Make any object with some of the hooks usable as `WorkflowCallbacks`.

    Args:
        callbacks: `None`, a `WorkflowCallbacks`, a mapping of hooks, or an object with `on_…` or `invoke_…`
            attributes.
    """
    if isinstance(callbacks, WorkflowCallbacks):
        return callbacks
    if callbacks is None:
        return WorkflowCallbacks()
    if isinstance(callbacks, Mapping):
        return WorkflowCallbacks(**callbacks)
    return WorkflowCallbacks(**{name: _find_hook(callbacks, name) for name in _HOOKS})


def _find_hook(callbacks: Any, name: str) -> Any:
    hook = getattr(callbacks, name, None)
    if hook is not None:
        return hook
    other = "check_should_continue" if name == "should_continue" else name.replace("on_", "invoke_", 1)
    return getattr(callbacks, other, None)


def merge_callbacks(*callbacks: Any) -> WorkflowCallbacks:
    """Join several sets of callbacks into one.

    Each hook of each set is called, in order, and cannot disturb the others. The run goes on while all say
    so.

    Args:
        *callbacks: sets of callbacks; `None` is left out.
    """
    parts = [adapt_callbacks(part) for part in callbacks if part is not None]

    def fan_out(name: str) -> Hook:
        def call(*arguments: Any) -> None:
            for part in parts:
                part._invoke(name, *arguments)

        return call

    merged: dict[str, Any] = {
        name: fan_out(name)
        for name in _HOOKS
        if name != "should_continue" and any(getattr(part, name) is not None for part in parts)
    }
    if any(part.should_continue is not None for part in parts):
        merged["should_continue"] = lambda: all(part.check_should_continue() for part in parts)
    return WorkflowCallbacks(**merged)


def create_null_callbacks() -> WorkflowCallbacks:
    """Return callbacks that do nothing."""
    return WorkflowCallbacks()


def create_print_callbacks() -> WorkflowCallbacks:
    """Return callbacks that print one line per plan, step, cost and outcome."""
    say: Callable[[str], None] = print

    def on_cost_update(cost: dict[str, Any]) -> None:
        say(f"cost so far: ${cost.get('total_cost') or 0:.4f}, {cost.get('total_tokens') or 0} tokens")

    def on_planning_complete(plan: PlanInfo) -> None:
        say(f"plan: {plan.num_steps} steps in {plan.planning_time:.1f} s")
        for number, step in enumerate(plan.steps, 1):
            say(f"  {number}. {step.get('sub_task', '')} ({step.get('sub_task_agent', '')})")

    return WorkflowCallbacks(
        on_workflow_start=lambda task, config: say(f"workflow started: {task}"),
        on_planning_start=lambda task, config: say("planning"),
        on_planning_complete=on_planning_complete,
        on_step_start=lambda step: say(f"step {step.step_number} started: {step.goal}"),
        on_step_complete=lambda step: say(f"step {step.step_number} {step.status.value}"),
        on_step_failed=lambda step: say(f"step {step.step_number} failed: {step.error}"),
        on_cost_update=on_cost_update,
        on_workflow_complete=lambda final_context, seconds: say(f"workflow completed in {seconds:.1f} s"),
        on_workflow_failed=lambda error, step: say(f"workflow failed: {error}"),
        on_phase_change=lambda phase, step: None if step is None else say(f"phase {phase}, {step}"),
        on_progress=lambda message, data: say(message),
    )
