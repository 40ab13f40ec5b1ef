"""Execution with a human: asked before steps, after them, or when one fails.

The phase executes the built-in control phase once a step, within the same run. Each step begins as a run
does that is restarted at it: with the plan and the context that the step before left.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cmbagent.errors import ConfigurationError
from cmbagent.phases._ask import Answer, all_feedback, ask, fresh
from cmbagent.phases.base import DefaultSeconds, Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
from cmbagent.phases.control import ControlPhase, ControlPhaseConfig

MODES = ("before_step", "after_step", "both", "on_error")
"""When a human is asked; a step that failed is asked about in each of them."""


@dataclass
class HITLControlPhaseConfig(ControlPhaseConfig):
    """Settings of execution with a human; those of the control phase, and some of its own.

    `execute_all_steps`, `step_number`, `hitl_enabled` and `hitl_after_each_step` belong to the control phase
    and have no meaning here.

    Attributes:
        timeout_seconds: how long to wait for each answer, in seconds.
        approval_mode: one of `before_step`, `after_step`, `both`, `on_error`.
        max_redos: how often a step is done again because the human wants it.
        allow_step_skip: let the human leave out steps.
        allow_step_retry: let the human have a failed step tried again.
        allow_step_modification: let the human edit the plan before a step: that step and those after it.
        show_step_context: show what a step found when asking about it.
        auto_approve_successful_steps: ask after a step only when it failed.
    """

    phase_type: str = "hitl_control"
    approval_mode: str = field(default="before_step", metadata={"enum": list(MODES)})
    max_redos: int = field(default=2, metadata={"minimum": 0})
    allow_step_skip: bool = True
    allow_step_retry: bool = True
    allow_step_modification: bool = True
    show_step_context: bool = True
    auto_approve_successful_steps: bool = False

    def __post_init__(self) -> None:
        """Check the mode, and keep `timeout_seconds` from limiting anything but the wait for an answer.

        Raises:
            ConfigurationError: there is no such mode.
        """
        self.timeout_seconds = DefaultSeconds(self.timeout_seconds)
        if self.approval_mode not in MODES:
            raise ConfigurationError(
                f"approval_mode={self.approval_mode!r} is not known; expected one of {', '.join(MODES)}"
            )


@dataclass
class _Progress:
    plan: list[dict[str, Any]]
    context: Any = None
    results: list[dict[str, Any]] = field(default_factory=list)
    summaries: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    chat: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    feedback: list[dict[str, Any]] = field(default_factory=list)
    alone: bool = False

    @property
    def words(self) -> list[str]:
        return [each["feedback"] for each in self.feedback]


class HITLControlPhase(Phase):
    """Carry out a plan step by step, with a human's say."""

    config_class: ClassVar[type[PhaseConfig] | None] = HITLControlPhaseConfig

    @property
    def phase_type(self) -> str:
        """`hitl_control`."""
        return "hitl_control"

    @property
    def display_name(self) -> str:
        """`Interactive Execution (HITL)`."""
        return "Interactive Execution (HITL)"

    def get_required_agents(self) -> list[str]:
        """Return the agents of the control phase."""
        return ControlPhase().get_required_agents()

    def get_output_schema(self) -> dict[str, Any]:
        """Return the schema of the control phase's output, with what the human did."""
        schema = ControlPhase().get_output_schema()
        for name, text in {
            "human_interventions": "per answer: step, type, resolution, feedback",
            "skipped_steps": "the numbers of the steps left out",
            "step_feedback": "per remark: step, feedback",
        }.items():
            schema["properties"][name] = {"type": "array", "description": text}
        return schema

    def validate_input(self, context: PhaseContext) -> list[str]:
        """Return what is missing of task, work directory and plan."""
        wanted = {
            "Task is required": context.task,
            "Work directory is required": context.work_dir,
            "Plan is required (final_plan or plan_steps)": _plan(self.config, context),
        }
        return [message for message, value in wanted.items() if not value]

    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Carry out the plan.

        Returns:
            COMPLETED with `step_results`, `final_context`, `step_summaries`, `human_interventions`,
            `skipped_steps`, `step_feedback`; FAILED when a step was rejected, when the human stopped the run,
            or when a step failed and was neither tried again nor left out.

        Raises:
            ConfigurationError: the plan cannot be carried out.
        """
        from cmbagent.approvals.plan import checked

        self._status = PhaseStatus.RUNNING
        started = time.time()
        progress = _Progress(checked(_plan(self.config, context)))
        error: str | None = None
        number = 0
        # A human may change the steps that are still to come.
        while error is None and number < len(progress.plan):
            number += 1
            error = await self._step(context, progress, number)
        result = self._end(context, progress, error, started)
        self._status = result.status
        return result

    async def _step(self, context: PhaseContext, progress: _Progress, number: int) -> str | None:
        """Do one step with all questions about it; the reason when the run ends there."""
        config = self.config
        if config.approval_mode in ("before_step", "both"):
            go, error = await self._before(context, progress, number)
            if not go:
                return error
        redos = 0
        while True:
            output, chat = await self._perform(context, progress, number, redos)
            word, end = await self._after(context, progress, number, output, redos)
            if word in ("redo", "retry"):
                redos += 1
                continue
            self._enter(progress, number, output, chat, redos)
            if word == "skip":
                progress.skipped.append(number)
                return None
            return end

    async def _before(
        self, context: PhaseContext, progress: _Progress, number: int
    ) -> tuple[bool, str | None]:
        config = self.config
        step = progress.plan[number - 1]
        message = (
            f"Step {number} of {len(progress.plan)}, by the {step['sub_task_agent']}: {step['sub_task']}"
        )
        options = ["approve", "reject"]
        options += ["skip"] if config.allow_step_skip else []
        options += ["modify"] if config.allow_step_modification else []
        answer = await self._ask(context, progress, number, "", "before_step", message, options)
        if answer.error is not None:
            return False, answer.error
        if answer.word == "reject":
            return False, f"Step {number} rejected by human: {answer.feedback or 'no reason given'}"
        if answer.word == "skip":
            progress.skipped.append(number)
            return False, None
        if answer.plan is not None:
            # What is done stays as it was done.
            progress.plan = progress.plan[: number - 1] + answer.plan[number - 1 :]
            file = Path(context.work_dir) / "planning" / "final_plan.json"
            if file.exists():
                text = json.dumps({"sub_tasks": progress.plan}, indent=4, ensure_ascii=False)
                file.write_text(text, encoding="utf-8")
            if len(progress.plan) < number:
                return False, None
        return True, None

    async def _after(
        self, context: PhaseContext, progress: _Progress, number: int, output: Mapping[str, Any], redos: int
    ) -> tuple[str | None, str | None]:
        """What the human says about a step that was done, and why the run ends there if it does."""
        config = self.config
        failure, of = output.get("error"), len(progress.plan)
        again = redos < config.max_redos
        if failure is None:
            if config.approval_mode not in ("after_step", "both") or config.auto_approve_successful_steps:
                return None, None
            place, kind = "_review", "after_step"
            options = ["continue", "abort", *(["redo"] if again else [])]
            message = f"Step {number} of {of} is done: {progress.plan[number - 1]['sub_task']}"
        else:
            place, kind = "_error", "on_error"
            options = [*(["retry"] if again and config.allow_step_retry else [])]
            options += ["skip"] if config.allow_step_skip else []
            options.append("abort")
            message = f"{failure}\nWhat is to be done about step {number} of {of}?"
        found = "\n".join(output.get("step_summaries") or [])
        if config.show_step_context and found:
            message += f"\n\n{found}"
        answer = await self._ask(context, progress, number, place, kind, message, options)
        if answer.error is not None:
            return None, answer.error
        if answer.word == "abort":
            why = f": {answer.feedback}" if answer.feedback else ""
            return "abort", failure or f"Aborted by user after step {number}{why}"
        return answer.word, failure

    async def _ask(
        self,
        context: PhaseContext,
        progress: _Progress,
        number: int,
        place: str,
        kind: str,
        message: str,
        options: list[str],
    ) -> Answer:
        if progress.alone:
            return Answer(None, None, None, {"no_hitl_manager": True})
        answer = await ask(
            context,
            f"{context.phase_id}_step_{number}{place}",
            kind,
            message,
            options,
            int(self.config.timeout_seconds),
            plan=progress.plan if "modify" in options else None,
            current_step=number,
        )
        progress.alone = answer.nobody
        if answer.word is not None:
            entry = {"step": number, "type": kind, "resolution": answer.word, "feedback": answer.feedback}
            progress.asked.append(entry)
        if answer.feedback:
            progress.feedback.append({"step": number, "feedback": answer.feedback})
        return answer

    async def _perform(
        self, context: PhaseContext, progress: _Progress, number: int, redos: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        config = self.config
        own = fresh(context)
        own.shared_state["all_hitl_feedback"] = [*all_feedback(context), *progress.words]
        names = "max_rounds max_n_attempts engineer_model researcher_model idea_maker_model idea_hater_model"
        names += " camb_context_model plot_judge_model evaluate_plots max_n_plot_evals"
        names += " engineer_instructions researcher_instructions model_overrides"
        params = {**config.params, "preloaded_plan": progress.plan, "fail_softly": True}
        if progress.context is not None:
            params["restored_context"] = progress.context
        if progress.results or redos or progress.skipped:
            params["keep_existing"] = True
        settings = {name: getattr(config, name) for name in names.split()}
        phase = ControlPhase(
            ControlPhaseConfig(**settings, params=params, execute_all_steps=False, step_number=number)
        )
        result = await phase.execute(own)
        output = dict(result.output_data)
        if not result.succeeded:
            output["error"] = result.error or "the step could not be carried out"
        return output, result.chat_history

    def _enter(
        self,
        progress: _Progress,
        number: int,
        output: Mapping[str, Any],
        chat: list[dict[str, Any]],
        redos: int,
    ) -> None:
        done: dict[str, Any] = next(iter(output.get("step_results") or []), {})
        failure = output.get("error")
        if failure is None:
            progress.context = output.get("final_context") or progress.context
            progress.summaries = list(output.get("step_summaries") or progress.summaries)
        progress.files += [file for file in output.get("output_files") or [] if file not in progress.files]
        progress.chat += chat
        progress.results.append(
            {
                **done,
                "step": number,
                "success": failure is None,
                "result": done.get("summary"),
                "attempts": redos + 1,
                "redos": redos,
                "chat_history": chat,
                "error": failure,
            }
        )

    def _end(
        self, context: PhaseContext, progress: _Progress, error: str | None, started: float
    ) -> PhaseResult:
        final = progress.context or {}
        done = [r["step"] for r in progress.results if r["success"]]
        context.output_data = {
            "step_results": progress.results,
            "final_context": final,
            "step_summaries": progress.summaries,
            "output_files": progress.files,
            "status": "completed" if error is None else "failed",
            "error": error,
            "human_interventions": progress.asked,
            "skipped_steps": progress.skipped,
            "step_feedback": progress.feedback,
            "shared": {
                "plan_steps": progress.plan,
                "final_context": final,
                "executed_steps": done,
                "step_feedback": progress.feedback,
                "control_feedback": progress.words,
                "all_hitl_feedback": [*all_feedback(context), *progress.words],
                "execution_complete": error is None,
            },
        }
        if progress.context is not None:
            from cmbagent.workflows.restore import plain

            file = Path(context.work_dir) / "control" / "final_context.pkl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(pickle.dumps(plain(final), protocol=4))
        now = time.time()
        timing = {"start": started, "end": now, "total": now - started}
        status = PhaseStatus.COMPLETED if error is None else PhaseStatus.FAILED
        return PhaseResult(status, context, error, progress.chat, timing)


def _plan(config: PhaseConfig, context: PhaseContext) -> Any:
    shared = context.shared_state
    found = (
        config.params.get("preloaded_plan"),
        context.input_data.get("final_plan"),
        shared.get("plan_steps"),
        shared.get("final_plan"),
    )
    return next((plan for plan in found if plan), None)
