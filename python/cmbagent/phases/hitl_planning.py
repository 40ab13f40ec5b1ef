"""Planning with a human: every plan is shown, and rewritten as the human wants it.

The phase is made of built-in ones, planning and checkpoint, executed within the same run. What the human
writes about a plan reaches the planner together with that plan, the way all feedback of checkpoints reaches
agents.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cmbagent.phases._ask import Answer, all_feedback, ask, fresh
from cmbagent.phases.base import DefaultSeconds, Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
from cmbagent.phases.planning import PlanningPhase, PlanningPhaseConfig


@dataclass
class HITLPlanningPhaseConfig(PlanningPhaseConfig):
    """Settings of planning with a human; those of planning, and some of its own.

    Attributes:
        timeout_seconds: how long to wait for each answer, in seconds.
        max_human_iterations: how many plans a human is shown at most.
        auto_approve_after_iterations: after so many, the next plan is taken without a question; only where
            `require_explicit_approval` is off.
        require_explicit_approval: fail when the last plan shown was not approved.
        show_intermediate_plans: show the plan with each question.
        allow_plan_modification: let the human edit the plan.
        use_ag2_handoffs: kept for older programs; it has no effect.
        ag2_mandatory_checkpoints: kept for older programs; it has no effect.
        ag2_smart_approval: kept for older programs; it has no effect.
        ag2_smart_criteria: kept for older programs; it has no effect.
    """

    phase_type: str = "hitl_planning"
    max_plan_steps: int = 10
    max_human_iterations: int = field(default=3, metadata={"minimum": 1})
    auto_approve_after_iterations: int = field(default=3, metadata={"minimum": 0})
    require_explicit_approval: bool = True
    show_intermediate_plans: bool = True
    allow_plan_modification: bool = True
    use_ag2_handoffs: bool = False
    ag2_mandatory_checkpoints: list[str] = field(default_factory=lambda: ["after_planning"])
    ag2_smart_approval: bool = False
    ag2_smart_criteria: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep `timeout_seconds` from limiting anything but the wait for an answer."""
        self.timeout_seconds = DefaultSeconds(self.timeout_seconds)


class HITLPlanningPhase(Phase):
    """Plan, ask, plan again, until a human approves."""

    config_class: ClassVar[type[PhaseConfig] | None] = HITLPlanningPhaseConfig

    def __init__(self, config: HITLPlanningPhaseConfig | None = None) -> None:
        """Keep the config; without one, the defaults."""
        super().__init__(config)
        if self.config.use_ag2_handoffs or self.config.ag2_smart_approval:
            warnings.warn(
                "use_ag2_handoffs and ag2_smart_approval have no effect: the human is asked about every plan",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def phase_type(self) -> str:
        """`hitl_planning`."""
        return "hitl_planning"

    @property
    def display_name(self) -> str:
        """`Interactive Planning (HITL)`."""
        return "Interactive Planning (HITL)"

    def get_required_agents(self) -> list[str]:
        """Return the agents of planning."""
        return PlanningPhase().get_required_agents()

    def get_output_schema(self) -> dict[str, Any]:
        """Return the schema of planning's output, with `human_feedback` and `iterations`."""
        schema = PlanningPhase().get_output_schema()
        schema["properties"]["human_feedback"] = {
            "type": "array",
            "items": {"type": "string"},
            "description": "what the human wrote about the plans, in order",
        }
        schema["properties"]["iterations"] = {"type": "integer", "description": "how many plans were made"}
        return schema

    def validate_input(self, context: PhaseContext) -> list[str]:
        """Return what is missing of task and work directory."""
        wanted = {"Task is required": context.task, "Work directory is required": context.work_dir}
        return [message for message, value in wanted.items() if not value]

    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Make plans until one is approved.

        Returns:
            COMPLETED with the output of planning, the approved plan in it, and `human_feedback`,
            `iterations`, `approval_status`; FAILED with `Plan rejected by human: …`, with
            `Max iterations (n) reached without approval`, or with why planning or asking failed.
        """
        self._status = PhaseStatus.RUNNING
        result = await self._work(context)
        self._status = result.status
        return result

    async def _work(self, context: PhaseContext) -> PhaseResult:
        config = self.config
        words: list[str] = []
        chat: list[dict[str, Any]] = []
        revision: str | None = None
        iteration = 0
        while True:
            iteration += 1
            planned = await self._plan(context, iteration, words, revision)
            chat += planned.chat_history
            if not planned.succeeded:
                return PhaseResult(PhaseStatus.FAILED, context, planned.error, chat)
            plan = planned.output_data["final_plan"]
            asked = iteration - 1
            limit = min(config.auto_approve_after_iterations, config.max_human_iterations)
            if not config.require_explicit_approval and asked >= limit:
                break
            answer = await self._ask(context, iteration, plan)
            if answer.error is not None:
                return self._end(context, planned, plan, words, iteration, chat, answer, answer.error)
            words += [answer.feedback] if answer.feedback else []
            if answer.word == "reject":
                error = f"Plan rejected by human: {answer.feedback or 'no reason given'}"
                return self._end(context, planned, plan, words, iteration, chat, answer, error)
            if answer.word != "revise":
                plan = answer.plan or plan
                return self._end(context, planned, plan, words, iteration, chat, answer)
            if config.require_explicit_approval and iteration >= config.max_human_iterations:
                error = f"Max iterations ({config.max_human_iterations}) reached without approval"
                return self._end(context, planned, plan, words, iteration, chat, answer, error)
            revision = _revision(plan, answer.feedback)
        return self._end(context, planned, plan, words, iteration, chat)

    async def _plan(
        self, context: PhaseContext, iteration: int, words: list[str], revision: str | None
    ) -> PhaseResult:
        config = self.config
        own = fresh(context)
        if revision is not None:
            own.shared_state["all_hitl_feedback"] = [*all_feedback(context), *words[:-1], revision]
        names = (
            "max_rounds max_plan_steps n_plan_reviews planner_model plan_reviewer_model plan_instructions "
            "hardware_constraints engineer_instructions researcher_instructions max_n_attempts "
            "model_overrides"
        )
        params = {
            **config.params,
            "keep_existing": iteration > 1 or config.params.get("keep_existing", False),
        }
        settings = {name: getattr(config, name) for name in names.split()}
        return await PlanningPhase(PlanningPhaseConfig(**settings, params=params)).execute(own)

    async def _ask(self, context: PhaseContext, iteration: int, plan: list[dict[str, Any]]) -> Answer:
        config = self.config
        message = (
            f"Plan {iteration} of at most {config.max_human_iterations} is ready. "
            "Approve it, or say what to change."
        )
        options = ["approve", "reject", "revise"]
        if config.allow_plan_modification:
            options.append("modify")
        return await ask(
            context,
            f"{context.phase_id}_iter_{iteration}",
            "during_planning",
            message,
            options,
            int(config.timeout_seconds),
            plan=plan if config.show_intermediate_plans else None,
        )

    def _end(
        self,
        context: PhaseContext,
        planned: PhaseResult,
        plan: list[dict[str, Any]],
        words: list[str],
        iterations: int,
        chat: list[dict[str, Any]],
        answer: Answer | None = None,
        error: str | None = None,
    ) -> PhaseResult:
        output = dict(planned.output_data)
        asked: Mapping[str, Any] = answer.output if answer is not None else {}
        for name in ("approval_status", "user_feedback", "modifications", "no_hitl_manager"):
            if name in asked:
                output[name] = asked[name]
        if answer is None:
            output["approval_status"] = "auto_approved"
        output |= {"final_plan": plan, "number_of_steps_in_plan": len(plan)}
        output |= {"human_feedback": list(words), "iterations": iterations}
        output["shared"] = {
            **output.get("shared", {}),
            "plan_steps": plan,
            "number_of_steps_in_plan": len(plan),
            "hitl_feedback": words[-1] if words else None,
            "all_hitl_feedback": [*all_feedback(context), *words],
            "planning_feedback_history": list(words),
            "human_guided_planning": True,
        }
        if error is None:
            file = Path(output["plan_file_path"]).with_name("final_plan_approved.json")
            file.write_text(json.dumps({"sub_tasks": plan}, indent=4, ensure_ascii=False), encoding="utf-8")
            output["approved_plan_file_path"] = str(file)
        context.output_data = output
        status = PhaseStatus.COMPLETED if error is None else PhaseStatus.FAILED
        return PhaseResult(status, context, error, chat, dict(planned.timing))


def _revision(plan: list[dict[str, Any]], words: str | None) -> str:
    from cmbagent.approvals.plan import to_text

    wish = words or "This plan is not what I want; make a better one."
    return f"{wish}\n\nThis is about the following plan, which is to be revised:\n\n{to_text(plan)}"
